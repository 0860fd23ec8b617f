// The op's attributes in the adapter: the contract's names, types and defaults, in one table that reads them.
#pragma once

#include "onnxruntime.h"

#include <cfloat>
#include <cstdint>
#include <string>
#include <vector>

namespace lccl::ort
{

//! Members are named as the attributes. A test holds names, types and defaults to the Python contract.
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

    int32_t grid() const
    {
        return static_cast<int32_t>(gate_upsample[2]);
    }

    bool external() const
    {
        return gate_source == "external";
    }
};

//! ONNX's kinds of attributes that the contract has.
enum class AttributeKind
{
    kFLOAT,
    kFLOATS,
    kINTS,
    kSTRING,
};

//! An attribute: where it lies in Attributes. One of the three pointers is not null.
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

    //! Each returns whether the node has the attribute as that kind; a Failure where it is there as another kind and that shows.
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

//! What the node leaves out takes the contract's default. Attributes that the contract does not know are not seen here.
//! \throw std::invalid_argument with a sentence: an attribute of another kind or length, or a value that version 1 does not allow
Attributes readAttributes(AttributeSource const& source);

} // namespace lccl::ort
