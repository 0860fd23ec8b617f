// Reads a node's attributes through ONNX Runtime.
#pragma once

#include "onnxruntime.h"

#include "contract/attributes.h"

#include <vector>

namespace lccl::ort
{

//! The kinds of ONNX attributes that the contract uses.
enum class AttributeKind
{
    kFloat,
    kFloats,
    kInts,
    kString,
};

//! An attribute and its place in Attributes; one of the three pointers is not null.
struct AttributeSpec
{
    char const* name;
    AttributeKind kind;
    size_t length; //!< Elements; 0 for strings.
    int32_t* (*ints)(Attributes&);
    float* (*floats)(Attributes&);
    std::string* (*text)(Attributes&);
};

std::vector<AttributeSpec> const& attributeSpecs();

//! Where attributes are read from: a node whose kernel is made, or one whose shapes are inferred.
class AttributeSource
{
public:
    virtual ~AttributeSource() = default;

    //! Reads an attribute. Returns false if the node has none of this kind.
    //! \throw Failure if ONNX Runtime shows that the attribute is of another kind
    virtual bool read(char const* name, std::vector<int64_t>& values) const = 0;
    virtual bool read(char const* name, std::vector<float>& values) const = 0;
    virtual bool read(char const* name, float& value) const = 0;
    virtual bool read(char const* name, std::string& text) const = 0;
};

//! Attributes of the node whose kernel is made.
class KernelAttributes final : public AttributeSource
{
public:
    KernelAttributes(OrtApi const& api, OrtKernelInfo const* info)
        : mApi(api)
        , mInfo(info)
    {
    }

    bool read(char const* name, std::vector<int64_t>& values) const override;
    bool read(char const* name, std::vector<float>& values) const override;
    bool read(char const* name, float& value) const override;
    bool read(char const* name, std::string& text) const override;

private:
    OrtApi const& mApi;
    OrtKernelInfo const* mInfo;
};

//! Attributes of the node whose shapes are inferred.
class ShapeAttributes final : public AttributeSource
{
public:
    ShapeAttributes(OrtApi const& api, OrtShapeInferContext const* context)
        : mApi(api)
        , mContext(context)
    {
    }

    bool read(char const* name, std::vector<int64_t>& values) const override;
    bool read(char const* name, std::vector<float>& values) const override;
    bool read(char const* name, float& value) const override;
    bool read(char const* name, std::string& text) const override;

private:
    //! Bytes of the attribute as that kind; false where the node has none.
    bool bytes(char const* name, OrtOpAttrType kind, std::vector<char>& data) const;

    OrtApi const& mApi;
    OrtShapeInferContext const* mContext;
};

//! The node's attributes, with the contract's defaults for those that it leaves out. Unknown
//! attributes are ignored.
//! \throw std::invalid_argument for an attribute of another kind or length, or a value that version
//! 1 does not allow
Attributes readAttributes(AttributeSource const& source);

} // namespace lccl::ort
