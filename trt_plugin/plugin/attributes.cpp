// Reads, checks and lists TensorRT's fields.

#include "attributes.h"

#include <algorithm>
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
    return begin == nullptr || field.length <= 0 ? std::string{}
                                                 : std::string(begin, strnlen(begin, static_cast<size_t>(field.length)));
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
    void* const to = spec.ints != nullptr ? static_cast<void*>(spec.ints(attributes))
                                          : static_cast<void*>(spec.floats(attributes));
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

//! What version 1 of the op and the plugin's own fields allow.
void checkValues(Attributes const& a)
{
    lccl::checkValues(a);
    require(*a.alias_residual == 0 || *a.alias_residual == 1, "alias_residual must be 0 or 1");
    require(*a.time_by_density == 0 || *a.time_by_density == 1, "time_by_density must be 0 or 1");
    require(
        allOf(a.planned_device, 4, 0) && a.workspace_bytes[1] >= 0, "planned_device and workspace_bytes must not be negative");
}

} // namespace

void Attributes::setPlannedDevice(lccl_device const& device)
{
    planned_device[0] = device.compute_capability;
    planned_device[1] = device.sm_count;
    planned_device[2] = device.shared_per_block;
    planned_device[3] = device.shared_per_sm;
}

size_t Attributes::workspaceBytes() const
{
    return static_cast<size_t>(static_cast<uint32_t>(workspace_bytes[1])) << 32 | static_cast<uint32_t>(workspace_bytes[0]);
}

void Attributes::setWorkspaceBytes(size_t bytes)
{
    workspace_bytes[0] = static_cast<int32_t>(static_cast<uint32_t>(bytes));
    workspace_bytes[1] = static_cast<int32_t>(static_cast<uint32_t>(bytes >> 32));
}

PluginFieldType FieldSpec::type() const
{
    return ints != nullptr ? PluginFieldType::kINT32 : floats != nullptr ? PluginFieldType::kFLOAT32 : PluginFieldType::kCHAR;
}

std::vector<FieldSpec> const& fieldSpecs()
{
#define LCCL_FIELD(NAME, USE, LENGTH, INTS, FLOATS, TEXT) {#NAME, FieldUse::USE, LENGTH, INTS, FLOATS, TEXT},
#define LCCL_INTS_OF(NAME, USE, LENGTH)                                                                                        \
    LCCL_FIELD(NAME, USE, LENGTH, [](Attributes& a) -> int32_t* { return a.NAME; }, nullptr, nullptr)
#define LCCL_INTS(NAME, LENGTH) LCCL_INTS_OF(NAME, kCONTRACT, LENGTH)
#define LCCL_FLOATS(NAME, LENGTH)                                                                                              \
    LCCL_FIELD(NAME, kCONTRACT, LENGTH, nullptr, [](Attributes& a) -> float* { return a.NAME; }, nullptr)
#define LCCL_FLOAT(NAME) LCCL_FLOATS(NAME, 1)
#define LCCL_TEXT(NAME)                                                                                                        \
    LCCL_FIELD(NAME, kCONTRACT, 0, nullptr, nullptr, [](Attributes& a) -> std::string* { return &a.NAME; })
    // clang-format off
    static std::vector<FieldSpec> const specs{
        LCCL_ATTRIBUTES(LCCL_INTS, LCCL_FLOATS, LCCL_FLOAT, LCCL_TEXT)
        LCCL_INTS_OF(alias_residual, kOPTIONAL, 1)
        LCCL_INTS_OF(time_by_density, kOPTIONAL, 1)
        LCCL_INTS_OF(planned_device, kINTERNAL, 4)
        LCCL_INTS_OF(workspace_bytes, kINTERNAL, 2)
    };
    // clang-format on
#undef LCCL_FIELD
#undef LCCL_INTS_OF
#undef LCCL_INTS
#undef LCCL_FLOATS
#undef LCCL_FLOAT
#undef LCCL_TEXT
    return specs;
}

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
            throw std::invalid_argument(std::string("field ") + spec.name + " is missing: "
                + (spec.use == FieldUse::kCONTRACT ? "every attribute is written on every node"
                                                   : "the engine is of another version of the plugin, build it again"));
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
        void const* const data = spec.ints != nullptr ? static_cast<void const*>(spec.ints(attributes))
                                                      : static_cast<void const*>(spec.floats(attributes));
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
