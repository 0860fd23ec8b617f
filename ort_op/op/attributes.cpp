// Reads attributes through ONNX Runtime and checks them.

#include "attributes.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <stdexcept>

namespace lccl::ort
{
namespace
{

//! ONNX Runtime fails for a missing attribute; for one of another kind it fails or returns an empty
//! list. So every kind is tried.
bool isOfAnotherKind(AttributeSource const& source, AttributeSpec const& spec)
{
    std::vector<int64_t> ints;
    std::vector<float> floats;
    float number = 0;
    std::string text;
    bool const isList = spec.kind == AttributeKind::kFloats || spec.kind == AttributeKind::kInts;
    bool const found[]{source.read(spec.name, number), source.read(spec.name, floats) && !(isList && floats.empty()),
        source.read(spec.name, ints) && !(isList && ints.empty()), source.read(spec.name, text)};
    for (int kind = 0; kind < 4; ++kind)
    {
        if (found[kind] && kind != static_cast<int>(spec.kind))
        {
            return true;
        }
    }
    return false;
}

void requireKind(AttributeSource const& source, AttributeSpec const& spec)
{
    static char const* const kinds[]{"a float", "floats", "ints", "a string"};
    if (isOfAnotherKind(source, spec))
    {
        throw std::invalid_argument(std::string(spec.name) + " must be " + kinds[static_cast<int>(spec.kind)]);
    }
}

void requireLength(AttributeSource const& source, AttributeSpec const& spec, size_t length)
{
    if (length == 0)
    {
        requireKind(source, spec);
    }
    if (length != spec.length)
    {
        throw std::invalid_argument(
            std::string(spec.name) + " takes " + std::to_string(spec.length) + " numbers, not " + std::to_string(length));
    }
}

//! \return whether the node has it, of the right kind and length
bool readOne(AttributeSource const& source, AttributeSpec const& spec, Attributes& to)
{
    switch (spec.kind)
    {
    case AttributeKind::kString: return source.read(spec.name, *spec.text(to));
    case AttributeKind::kFloat: return source.read(spec.name, *spec.floats(to));
    case AttributeKind::kFloats:
    {
        std::vector<float> values;
        if (!source.read(spec.name, values))
        {
            return false;
        }
        requireLength(source, spec, values.size());
        std::copy(values.begin(), values.end(), spec.floats(to));
        return true;
    }
    case AttributeKind::kInts:
    {
        std::vector<int64_t> values;
        if (!source.read(spec.name, values))
        {
            return false;
        }
        requireLength(source, spec, values.size());
        for (size_t i = 0; i < values.size(); ++i)
        {
            if (values[i] < INT_MIN || values[i] > INT_MAX)
            {
                throw std::invalid_argument(
                    std::string(spec.name) + " must be 32-bit numbers, not " + std::to_string(values[i]));
            }
            spec.ints(to)[i] = static_cast<int32_t>(values[i]);
        }
        return true;
    }
    }
    return false;
}

} // namespace

std::vector<AttributeSpec> const& attributeSpecs()
{
#define LCCL_INTS(NAME, LENGTH)                                                                                                \
    {#NAME, AttributeKind::kInts, LENGTH, [](Attributes& a) -> int32_t* { return a.NAME; }, nullptr, nullptr},
#define LCCL_FLOATS(NAME, LENGTH)                                                                                              \
    {#NAME, AttributeKind::kFloats, LENGTH, nullptr, [](Attributes& a) -> float* { return a.NAME; }, nullptr},
#define LCCL_FLOAT(NAME)                                                                                                       \
    {#NAME, AttributeKind::kFloat, 1, nullptr, [](Attributes& a) -> float* { return a.NAME; }, nullptr},
#define LCCL_TEXT(NAME)                                                                                                        \
    {#NAME, AttributeKind::kString, 0, nullptr, nullptr, [](Attributes& a) -> std::string* { return &a.NAME; }},
    static std::vector<AttributeSpec> const specs{LCCL_ATTRIBUTES(LCCL_INTS, LCCL_FLOATS, LCCL_FLOAT, LCCL_TEXT)};
#undef LCCL_INTS
#undef LCCL_FLOATS
#undef LCCL_FLOAT
#undef LCCL_TEXT
    return specs;
}

Attributes readAttributes(AttributeSource const& source)
{
    Attributes attributes;
    for (AttributeSpec const& spec : attributeSpecs())
    {
        if (!readOne(source, spec, attributes))
        {
            requireKind(source, spec);
        }
    }
    checkValues(attributes);
    return attributes;
}

// ---- of a node whose kernel is made ------------------------------------------------------------

bool KernelAttributes::read(char const* name, std::vector<int64_t>& values) const
{
    size_t size = 0;
    if (!succeeded(mApi, mApi.KernelInfoGetAttributeArray_int64(mInfo, name, nullptr, &size)))
    {
        return false;
    }
    values.resize(size);
    // ONNX Runtime takes a null pointer for a question about the size.
    return size == 0 || succeeded(mApi, mApi.KernelInfoGetAttributeArray_int64(mInfo, name, values.data(), &size));
}

bool KernelAttributes::read(char const* name, std::vector<float>& values) const
{
    size_t size = 0;
    if (!succeeded(mApi, mApi.KernelInfoGetAttributeArray_float(mInfo, name, nullptr, &size)))
    {
        return false;
    }
    values.resize(size);
    return size == 0 || succeeded(mApi, mApi.KernelInfoGetAttributeArray_float(mInfo, name, values.data(), &size));
}

bool KernelAttributes::read(char const* name, float& value) const
{
    return succeeded(mApi, mApi.KernelInfoGetAttribute_float(mInfo, name, &value));
}

bool KernelAttributes::read(char const* name, std::string& text) const
{
    size_t size = 0;
    if (!succeeded(mApi, mApi.KernelInfoGetAttribute_string(mInfo, name, nullptr, &size)) || size == 0)
    {
        return false;
    }
    std::vector<char> characters(size);
    if (!succeeded(mApi, mApi.KernelInfoGetAttribute_string(mInfo, name, characters.data(), &size)))
    {
        return false;
    }
    text.assign(characters.data(), strnlen(characters.data(), characters.size()));
    return true;
}

// ---- of a node whose shapes are inferred -------------------------------------------------------

bool ShapeAttributes::bytes(char const* name, OrtOpAttrType kind, std::vector<char>& data) const
{
    OrtOpAttr const* attribute = nullptr;
    if (!succeeded(mApi, mApi.ShapeInferContext_GetAttribute(mContext, name, &attribute)) || attribute == nullptr)
    {
        return false;
    }
    size_t size = 0;
    data.resize(256);
    if (succeeded(mApi, mApi.ReadOpAttr(attribute, kind, data.data(), data.size(), &size)))
    {
        data.resize(size);
        return true;
    }
    if (size <= data.size())
    {
        return false;
    }
    data.resize(size);
    return succeeded(mApi, mApi.ReadOpAttr(attribute, kind, data.data(), data.size(), &size));
}

bool ShapeAttributes::read(char const* name, std::vector<int64_t>& values) const
{
    std::vector<char> data;
    if (!bytes(name, ORT_OP_ATTR_INTS, data))
    {
        return false;
    }
    values.resize(data.size() / sizeof(int64_t));
    std::copy_n(data.data(), values.size() * sizeof(int64_t), reinterpret_cast<char*>(values.data()));
    return true;
}

bool ShapeAttributes::read(char const* name, std::vector<float>& values) const
{
    std::vector<char> data;
    if (!bytes(name, ORT_OP_ATTR_FLOATS, data))
    {
        return false;
    }
    values.resize(data.size() / sizeof(float));
    std::copy_n(data.data(), values.size() * sizeof(float), reinterpret_cast<char*>(values.data()));
    return true;
}

bool ShapeAttributes::read(char const* name, float& value) const
{
    std::vector<char> data;
    if (!bytes(name, ORT_OP_ATTR_FLOAT, data) || data.size() != sizeof(float))
    {
        return false;
    }
    std::memcpy(&value, data.data(), sizeof(float));
    return true;
}

bool ShapeAttributes::read(char const* name, std::string& text) const
{
    std::vector<char> data;
    if (!bytes(name, ORT_OP_ATTR_STRING, data))
    {
        return false;
    }
    text.assign(data.data(), strnlen(data.data(), data.size()));
    return true;
}

} // namespace lccl::ort
