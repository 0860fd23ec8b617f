// Turns TensorRT's descriptions of tensors into a call of the kernels.
#pragma once

#include "attributes.h"

#include "contract/call.h"

namespace lccl::plugin
{

//! Whether the plugin takes a tensor as it is described; depends on this tensor and those before
//! it.
//! \param position of an input, or kInputs for the output
bool takesFormat(Attributes const& attributes, int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors);

//! Type of the output for the types of the nine inputs.
//! \throw std::invalid_argument for types that the op does not take
nvinfer1::DataType outputType(nvinfer1::DataType const* inputs);

//! The call for the nine inputs, without its pointers.
//! \param inputs with all dimensions known
//! \throw std::invalid_argument for shapes that the op does not allow
lccl_conv_params makeCall(Attributes const& attributes, nvinfer1::PluginTensorDesc const* inputs);

//! Sets the pointers of a call.
void setPointers(lccl_conv_params& call, void const* const* inputs, void* output);

} // namespace lccl::plugin
