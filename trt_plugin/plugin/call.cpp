// Checks formats, and turns shapes and pointers into a call of the kernels.

#include "call.h"

#include <algorithm>
#include <stdexcept>

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace lccl::plugin
{
namespace
{

bool isTensorType(DataType type)
{
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

int32_t dtypeOf(DataType type)
{
    require(isTensorType(type), "X must be float32, float16 or bfloat16");
    return type == DataType::kFLOAT ? LCCL_FLOAT32 : type == DataType::kHALF ? LCCL_FLOAT16 : LCCL_BFLOAT16;
}

Shape shapeOf(Dims const& dims)
{
    Shape shape;
    shape.rank = dims.nbDims;
    shape.d.fill(-1);
    for (int32_t i = 0; i < dims.nbDims && i < Shape::kMaxRank; ++i)
    {
        shape.d[static_cast<size_t>(i)] = dims.d[i];
    }
    return shape;
}

//! Whether the residual is a map and not the neutral one element. A network whose output has one
//! element has residuals of that size; where x is dynamic, a residual that is not is neutral.
bool residualIsMap(Attributes const& a, Shape const& x, Shape const& w, Dims const& residual)
{
    bool const isOneElement = residual.nbDims == 4
        && std::all_of(residual.d, residual.d + 4, [](int64_t size) { return size == 1; });
    if (!isOneElement)
    {
        return true;
    }
    bool const known = x.rank == 4 && w.rank == 4 && x.d[0] == 1 && x.d[2] > 0 && x.d[3] > 0 && w.d[0] == 1;
    if (!known)
    {
        return false;
    }
    Maps const maps = mapsOf(a, x, w);
    return maps.ho == 1 && maps.wo == 1;
}

} // namespace

bool takesFormat(Attributes const& attributes, int32_t position, DynamicPluginTensorDesc const* tensors)
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    DataType const type = tensors[kX].desc.type;
    bool image = position == kX || position == kInputs;
    if (position == kResidual)
    {
        image = residualIsMap(attributes, shapeOf(tensors[kX].desc.dims), shapeOf(tensors[kW].desc.dims), tensor.dims);
    }
    TensorFormat const format = image && type != DataType::kFLOAT ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
    return isTensorType(type) && tensor.type == (isFloat32Only(position) ? DataType::kFLOAT : type) && tensor.format == format;
}

DataType outputType(DataType const* inputs)
{
    dtypeOf(inputs[kX]);
    for (int32_t input = 0; input < kInputs; ++input)
    {
        if (inputs[input] != (isFloat32Only(input) ? DataType::kFLOAT : inputs[kX]))
        {
            throw std::invalid_argument(
                std::string(kInputNames[input]) + (isFloat32Only(input) ? " must be float32" : " must be of X's type"));
        }
    }
    return inputs[kX];
}

lccl_conv_params makeCall(Attributes const& attributes, PluginTensorDesc const* inputs)
{
    Shapes shapes;
    for (size_t input = 0; input < kInputs; ++input)
    {
        shapes[input] = shapeOf(inputs[input].dims);
    }
    lccl_conv_params call{};
    call.abi = LCCL_CUDA_ABI;
    call.dtype = dtypeOf(inputs[kX].type);
    call.layout = inputs[kX].type == DataType::kFLOAT ? LCCL_NCHW : LCCL_NHWC;
    setCall(call, attributes, shapes);
    bool const residualLiesAsY = inputs[kResidual].format == inputs[kX].format;
    call.has_residual = residualLiesAsY ? call.has_residual : 0;
    return call;
}

void setPointers(lccl_conv_params& call, void const* const* inputs, void* output)
{
    call.x = inputs[kX];
    call.weight = inputs[kW];
    call.bias = static_cast<float const*>(inputs[kB]);
    call.gate_weight = call.has_gate_weight != 0 ? inputs[kGateW] : nullptr;
    call.gate_bias = static_cast<float const*>(inputs[kGateB]);
    call.gate = call.has_gate != 0 ? inputs[kGate] : nullptr;
    call.post_scale = static_cast<float const*>(inputs[kPostScale]);
    call.post_bias = static_cast<float const*>(inputs[kPostBias]);
    call.residual = call.has_residual != 0 ? inputs[kResidual] : nullptr;
    call.y = output;
}

} // namespace lccl::plugin
