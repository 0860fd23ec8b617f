// The op's attributes as TensorRT's fields, in one table that reads, writes and lists them.
#pragma once

#include "nvinfer.h"

#include "contract/attributes.h"

#include "lccl_cuda.h"

#include <vector>

namespace lccl::plugin
{

constexpr char const* kPLUGIN_NAME = "LCCLConv";
constexpr char const* kPLUGIN_VERSION = "1";
constexpr char const* kPLUGIN_NAMESPACE = "";

//! The contract's attributes and the plugin's own fields. Members are named as their fields.
struct Attributes : lccl::Attributes
{
    //! Not of the contract: 1 lets the output take the residual's memory. The engine builder sets
    //! it where nobody else reads the residual.
    int32_t alias_residual[1]{0};

    //! Not of the contract: 1 promises that the engine is serialised before it runs, so that
    //! whatever runs in the building process is TensorRT's timing. Then contexts of that process
    //! simulate their gates, too.
    int32_t time_by_density[1]{0};

    //! Not of the contract, and only serialised: the GPU that the engine was planned for, whose
    //! multiprocessors say how large the workspace is. All 0: none yet, which no engine has.
    int32_t planned_device[4]{0, 0, 0, 0};

    //! Not of the contract, and only serialised: bytes of workspace that TensorRT was asked for
    //! when the engine was built, the lower 32 bits first. TensorRT does not tell enqueue how much
    //! it gives.
    int32_t workspace_bytes[2]{0, 0};

    lccl_device plannedDevice() const
    {
        return {planned_device[0], planned_device[1], planned_device[2], planned_device[3]};
    }

    void setPlannedDevice(lccl_device const& device);

    size_t workspaceBytes() const;
    void setWorkspaceBytes(size_t bytes);
};

//! Who passes a field.
enum class FieldUse
{
    kCONTRACT, //!< Every node and every engine.
    kOPTIONAL, //!< Whoever wants to; every engine.
    kINTERNAL, //!< Engines only.
};

//! A field and its place in Attributes; one of the three pointers is not null.
struct FieldSpec
{
    char const* name;
    FieldUse use;
    int32_t length; //!< Elements; 0 for strings.
    int32_t* (*ints)(Attributes&);
    float* (*floats)(Attributes&);
    std::string* (*text)(Attributes&);

    nvinfer1::PluginFieldType type() const;
};

std::vector<FieldSpec> const& fieldSpecs();

//! Attributes of a node (`phase` kBUILD) or of an engine (kRUNTIME).
//! \throw std::invalid_argument for a field that is unknown, missing, of another type or length, or
//! for a value that version 1 of the op does not allow
Attributes readFields(nvinfer1::PluginFieldCollection const* fields, nvinfer1::TensorRTPhase phase);

//! Fields over the memory of one Attributes. Copies would point into the original, so there are
//! none.
class FieldView
{
public:
    //! \param uses which fields are listed
    FieldView(Attributes& attributes, std::vector<FieldUse> const& uses);
    FieldView(FieldView const&) = delete;
    FieldView& operator=(FieldView const&) = delete;

    nvinfer1::PluginFieldCollection const* get() const
    {
        return &mCollection;
    }

private:
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mCollection;
};

//! "strides=1,1 pads=..." of what the contract has, for TensorRT's logs and timing cache.
std::string describe(Attributes const& attributes);

} // namespace lccl::plugin
