// The attributes of lccl::LCCLConv, version 1, as the adapters hold them: names, types, defaults
// and limits.
#pragma once

#include <cfloat>
#include <cstdint>
#include <string>

namespace lccl
{

//! Members are named as the attributes. A test holds names, types and defaults to the Python
//! contract.
struct Attributes
{
    int32_t strides[2]{1, 1};
    int32_t pads[4]{0, 0, 0, 0};
    int32_t dilations[2]{1, 1};
    int32_t gate_strides[2]{1, 1};
    int32_t gate_pads[4]{0, 0, 0, 0};
    int32_t gate_dilations[2]{1, 1};
    float activation_alpha[1]{1.0F};
    float gate_slope[1]{1.0F};
    float gate_max[1]{FLT_MAX};
    float gate_threshold[1]{0.0F};
    float gate_upsample[4]{1.0F, 1.0F, 1.0F, 1.0F};
    float post_alpha[1]{1.0F};
    std::string gate_source{"fused"};
    float density[1]{-1.0F};
    std::string plugin_version{"1"};
    std::string plugin_namespace{};

    //! G, the side of a block of pixels that shares a gate value.
    int32_t grid() const
    {
        return static_cast<int32_t>(gate_upsample[2]);
    }

    bool external() const
    {
        return gate_source == "external";
    }
};

//! Every attribute, for the table of an adapter: INTS(name, length), FLOATS(name, length),
//! FLOAT(name) and TEXT(name).
#define LCCL_ATTRIBUTES(INTS, FLOATS, FLOAT, TEXT)                                                                             \
    INTS(strides, 2)                                                                                                           \
    INTS(pads, 4)                                                                                                              \
    INTS(dilations, 2)                                                                                                         \
    INTS(gate_strides, 2)                                                                                                      \
    INTS(gate_pads, 4)                                                                                                         \
    INTS(gate_dilations, 2)                                                                                                    \
    FLOAT(activation_alpha)                                                                                                    \
    FLOAT(gate_slope)                                                                                                          \
    FLOAT(gate_max)                                                                                                            \
    FLOAT(gate_threshold)                                                                                                      \
    FLOATS(gate_upsample, 4)                                                                                                   \
    FLOAT(post_alpha)                                                                                                          \
    TEXT(gate_source)                                                                                                          \
    FLOAT(density)                                                                                                             \
    TEXT(plugin_version)                                                                                                       \
    TEXT(plugin_namespace)

//! \throw std::invalid_argument with `sentence`, unless `holds`
void require(bool holds, char const* sentence);

//! Whether all of `count` values are `least` or more.
bool allOf(int32_t const* values, int32_t count, int32_t least);

//! \throw std::invalid_argument for a value that version 1 of the op does not allow
void checkValues(Attributes const& attributes);

} // namespace lccl
