// What values the attributes may have.
#include "attributes.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace lccl
{

void require(bool holds, char const* sentence)
{
    if (!holds)
    {
        throw std::invalid_argument(sentence);
    }
}

bool allOf(int32_t const* values, int32_t count, int32_t least)
{
    return std::all_of(values, values + count, [least](int32_t value) { return value >= least; });
}

void checkValues(Attributes const& a)
{
    require(allOf(a.strides, 2, 1) && allOf(a.dilations, 2, 1) && allOf(a.gate_strides, 2, 1) && allOf(a.gate_dilations, 2, 1),
        "strides, dilations, gate_strides and gate_dilations must be positive");
    require(allOf(a.pads, 4, 0) && allOf(a.gate_pads, 4, 0), "pads and gate_pads must not be negative");
    float const* const up = a.gate_upsample;
    require(up[0] == 1 && up[1] == 1 && up[2] == up[3] && up[2] >= 1 && up[2] <= 1e6F && up[2] == std::floor(up[2]),
        "gate_upsample must be 1, 1, G, G with a whole G >= 1");
    require(*a.gate_slope > 0 && *a.gate_max > 0 && *a.gate_threshold >= 0,
        "gate_slope and gate_max must be positive and gate_threshold not negative");
    require(*a.gate_slope <= 1e30F, "gate_slope must not be above 1e+30, the slope of a hard mask");
    for (float const* const value : {a.activation_alpha, a.post_alpha, a.gate_max, a.gate_threshold})
    {
        require(std::isfinite(*value), "activation_alpha, post_alpha, gate_max and gate_threshold must be finite");
    }
    require(a.gate_source == "fused" || a.gate_source == "external", "gate_source must be fused or external");
    require(*a.density == -1 || (*a.density >= 0 && *a.density <= 1), "density must be -1 or between 0 and 1");
    require(a.plugin_version == "1", "plugin_version must be 1: the node is of another version of the op");
    require(a.plugin_namespace.empty(), "plugin_namespace must be empty");
}

} // namespace lccl
