// Reading, checking and listing fields.

#include "attributes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <sstream>
#include <stdexcept>

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

namespace lccl::plugin
{
namespace
{

#define LCCL_INTS(NAME, USE, LENGTH)                                                                                                        \
    FieldSpec                                                                                                                              \
    {                                                                                                                                      \
        #NAME, USE, LENGTH, [](Attributes& a) -> int32_t* { return a.NAME; }, nullptr, nullptr                                             \
    }
#define LCCL_FLOATS(NAME, USE, LENGTH)                                                                                                      \
    FieldSpec                                                                                                                              \
    {                                                                                                                                      \
        #NAME, USE, LENGTH, nullptr, [](Attributes& a) -> float* { return a.NAME; }, nullptr                                               \
    }
#define LCCL_TEXT(NAME, USE)                                                                                                                \
    FieldSpec                                                                                                                              \
    {                                                                                                                                      \
        #NAME, USE, 0, nullptr, nullptr, [](Attributes& a) -> std::string* { return &a.NAME; }                                             \
    }

char const* nameOf(PluginFieldType type)
{
    switch (type)
    {
    case PluginFieldType::kINT32: return "INT32";
    case PluginFieldType::kFLOAT32: return "FLOAT32";
    case PluginFieldType::kCHAR: return "CHAR";
    default: return "another type";
    }
}

//! The text of a CHAR field, whose length may count a terminating zero.
std::string textOf(PluginField const& field)
{
    auto const* const begin = static_cast<char const*>(field.data);
    return begin == nullptr || field.length <= 0 ? std::string{} : std::string(begin, strnlen(begin, static_cast<size_t>(field.length)));
}

void readField(PluginField const& field, FieldSpec const& spec, Attributes& attributes)
{
    std::string const name = spec.name;
    if (field.type != spec.type())
    {
        throw std::invalid_argument("field " + name + " is of type " + nameOf(spec.type()) + ", not " + nameOf(field.type));
    }
    if (spec.text != nullptr)
    {
        *spec.text(attributes) = textOf(field);
        return;
    }
    if (field.length != spec.length || field.data == nullptr)
    {
        throw std::invalid_argument(
            "field " + name + " takes " + std::to_string(spec.length) + " numbers, not " + std::to_string(field.length));
    }
    void* const to = spec.ints != nullptr ? static_cast<void*>(spec.ints(attributes)) : static_cast<void*>(spec.floats(attributes));
    std::memcpy(to, field.data, static_cast<size_t>(spec.length) * 4);
}

bool isNeeded(FieldSpec const& spec, nvinfer1::TensorRTPhase phase)
{
    return phase == nvinfer1::TensorRTPhase::kRUNTIME || spec.use == FieldUse::kCONTRACT;
}

bool isTaken(FieldSpec const& spec, nvinfer1::TensorRTPhase phase)
{
    return phase == nvinfer1::TensorRTPhase::kRUNTIME || spec.use != FieldUse::kINTERNAL;
}

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

//! What version 1 of the op allows, as the Python contract has it.
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
    require(a.plugin_version == kPluginVersion, "plugin_version must be 1: the node is of another version of the op");
    require(a.plugin_namespace == kPluginNamespace, "plugin_namespace must be empty");
    require(*a.alias_residual == 0 || *a.alias_residual == 1, "alias_residual must be 0 or 1");
    require(*a.time_by_density == 0 || *a.time_by_density == 1, "time_by_density must be 0 or 1");
    require(allOf(a.planned_device, 4, 0), "planned_device must not be negative");
}

} // namespace

PluginFieldType FieldSpec::type() const
{
    return ints != nullptr ? PluginFieldType::kINT32 : floats != nullptr ? PluginFieldType::kFLOAT32 : PluginFieldType::kCHAR;
}

std::vector<FieldSpec> const& fieldSpecs()
{
    static std::vector<FieldSpec> const specs{
        LCCL_INTS(strides, FieldUse::kCONTRACT, 2),
        LCCL_INTS(pads, FieldUse::kCONTRACT, 4),
        LCCL_INTS(dilations, FieldUse::kCONTRACT, 2),
        LCCL_INTS(gate_strides, FieldUse::kCONTRACT, 2),
        LCCL_INTS(gate_pads, FieldUse::kCONTRACT, 4),
        LCCL_INTS(gate_dilations, FieldUse::kCONTRACT, 2),
        LCCL_FLOATS(activation_alpha, FieldUse::kCONTRACT, 1),
        LCCL_FLOATS(gate_slope, FieldUse::kCONTRACT, 1),
        LCCL_FLOATS(gate_max, FieldUse::kCONTRACT, 1),
        LCCL_FLOATS(gate_threshold, FieldUse::kCONTRACT, 1),
        LCCL_FLOATS(gate_upsample, FieldUse::kCONTRACT, 4),
        LCCL_FLOATS(post_alpha, FieldUse::kCONTRACT, 1),
        LCCL_TEXT(gate_source, FieldUse::kCONTRACT),
        LCCL_FLOATS(density, FieldUse::kCONTRACT, 1),
        LCCL_TEXT(plugin_version, FieldUse::kCONTRACT),
        LCCL_TEXT(plugin_namespace, FieldUse::kCONTRACT),
        LCCL_INTS(alias_residual, FieldUse::kOPTIONAL, 1),
        LCCL_INTS(time_by_density, FieldUse::kOPTIONAL, 1),
        LCCL_INTS(planned_device, FieldUse::kINTERNAL, 4),
    };
    return specs;
}

#undef LCCL_INTS
#undef LCCL_FLOATS
#undef LCCL_TEXT

Attributes readFields(PluginFieldCollection const* fields, nvinfer1::TensorRTPhase phase)
{
    require(fields != nullptr && (fields->nbFields == 0 || fields->fields != nullptr), "there are no fields");
    Attributes attributes;
    std::set<std::string> seen;
    for (int32_t i = 0; i < fields->nbFields; ++i)
    {
        PluginField const& field = fields->fields[i];
        std::string const name = field.name == nullptr ? "" : field.name;
        auto const& specs = fieldSpecs();
        auto const spec = std::find_if(specs.begin(), specs.end(), [&name](FieldSpec const& s) { return name == s.name; });
        if (spec == specs.end() || !isTaken(*spec, phase))
        {
            throw std::invalid_argument("there is no field " + name + ": the model is not of version 1 of the op");
        }
        if (!seen.insert(name).second)
        {
            throw std::invalid_argument("field " + name + " comes twice");
        }
        readField(field, *spec, attributes);
    }
    for (FieldSpec const& spec : fieldSpecs())
    {
        if (isNeeded(spec, phase) && seen.count(spec.name) == 0)
        {
            throw std::invalid_argument(std::string("field ") + spec.name + " is missing: every attribute is written on every node");
        }
    }
    checkValues(attributes);
    require(phase == nvinfer1::TensorRTPhase::kBUILD || attributes.planned_device[0] > 0,
        "planned_device is empty: the engine was not built with this plugin");
    return attributes;
}

FieldView::FieldView(Attributes& attributes, std::vector<FieldUse> const& uses)
{
    for (FieldSpec const& spec : fieldSpecs())
    {
        if (std::find(uses.begin(), uses.end(), spec.use) == uses.end())
        {
            continue;
        }
        if (spec.text != nullptr)
        {
            std::string const& text = *spec.text(attributes);
            // With its terminating zero, so that an empty text is not a field of no bytes.
            mFields.emplace_back(spec.name, text.c_str(), spec.type(), static_cast<int32_t>(text.size() + 1));
            continue;
        }
        void const* const data
            = spec.ints != nullptr ? static_cast<void const*>(spec.ints(attributes)) : static_cast<void const*>(spec.floats(attributes));
        mFields.emplace_back(spec.name, data, spec.type(), spec.length);
    }
    mCollection.nbFields = static_cast<int32_t>(mFields.size());
    mCollection.fields = mFields.data();
}

std::string describe(Attributes const& attributes)
{
    Attributes copy = attributes;
    std::ostringstream words;
    words.precision(9);
    for (FieldSpec const& spec : fieldSpecs())
    {
        if (spec.use == FieldUse::kINTERNAL)
        {
            continue;
        }
        words << (words.tellp() > 0 ? " " : "") << spec.name << '=';
        if (spec.text != nullptr)
        {
            words << *spec.text(copy);
        }
        for (int32_t i = 0; i < spec.length; ++i)
        {
            words << (i > 0 ? "," : "");
            spec.ints != nullptr ? words << spec.ints(copy)[i] : words << spec.floats(copy)[i];
        }
    }
    return words.str();
}

} // namespace lccl::plugin
