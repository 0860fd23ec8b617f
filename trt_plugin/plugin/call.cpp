// Formats, shapes, pointers.

#include "call.h"

#include <climits>
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

//! Marks a tensor that the call has; never read.
float const kMark = 0;

bool isFloat32Only(int32_t input)
{
    return input == kB || input == kGATE_B || input == kPOST_SCALE || input == kPOST_BIAS;
}

bool isTensorType(DataType type)
{
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

int32_t dtypeOf(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT: return LCCL_FLOAT32;
    case DataType::kHALF: return LCCL_FLOAT16;
    case DataType::kBF16: return LCCL_BFLOAT16;
    default: throw std::invalid_argument("X must be float32, float16 or bfloat16");
    }
}

int32_t small(int64_t value)
{
    if (value < 0 || value > INT_MAX)
    {
        throw std::invalid_argument("a dimension of " + std::to_string(value) + " is more than the kernels' 32-bit sizes hold");
    }
    return static_cast<int32_t>(value);
}

bool equals(Dims const& dims, std::initializer_list<int64_t> shape)
{
    if (dims.nbDims != static_cast<int32_t>(shape.size()))
    {
        return false;
    }
    int32_t i = 0;
    for (int64_t const size : shape)
    {
        if (dims.d[i++] != size)
        {
            return false;
        }
    }
    return true;
}

std::string toText(Dims const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i)
    {
        text += (i > 0 ? ", " : "") + std::to_string(dims.d[i]);
    }
    return text + "]";
}

std::string toText(std::initializer_list<int64_t> shape)
{
    Dims dims{};
    for (int64_t const size : shape)
    {
        dims.d[dims.nbDims++] = size;
    }
    return toText(dims);
}

void requireShape(Dims const* dims, int32_t input, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> orElse = {})
{
    if (!equals(dims[input], shape) && (orElse.size() == 0 || !equals(dims[input], orElse)))
    {
        std::string const choices = toText(shape) + (orElse.size() == 0 ? "" : " or " + toText(orElse));
        throw std::invalid_argument(std::string(kInputNames[input]) + " must be " + choices + ", not " + toText(dims[input]));
    }
}

void requireRank4(Dims const* dims)
{
    for (int32_t const input : {kX, kW, kGATE_W, kGATE, kRESIDUAL})
    {
        if (dims[input].nbDims != 4)
        {
            throw std::invalid_argument(std::string(kInputNames[input]) + " must have 4 dimensions, not " + toText(dims[input]));
        }
    }
}

void setGeometry(lccl_conv_params& call, Attributes const& a)
{
    for (int32_t i = 0; i < 2; ++i)
    {
        call.strides[i] = a.strides[i];
        call.dilations[i] = a.dilations[i];
        call.gate_strides[i] = a.gate_strides[i];
        call.gate_dilations[i] = a.gate_dilations[i];
    }
    for (int32_t i = 0; i < 4; ++i)
    {
        call.pads[i] = a.pads[i];
        call.gate_pads[i] = a.gate_pads[i];
    }
    call.grid = a.grid();
    call.activation_alpha = *a.activation_alpha;
    call.gate_slope = *a.gate_slope;
    call.gate_max = *a.gate_max;
    call.gate_threshold = *a.gate_threshold;
    call.post_alpha = *a.post_alpha;
    call.density = *a.density;
}

int64_t outputSize(int64_t size, int64_t kernel, int64_t stride, int64_t pads, int64_t dilation)
{
    int64_t const span = size + pads - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

//! Height and width of a convolution of kernel [., r, s, .] over x [., ., h, w], or of its blocks of grid x grid.
struct MapSize
{
    int64_t h;
    int64_t w;
};

MapSize outputMap(Attributes const& a, Dims const& x, Dims const& w)
{
    return {outputSize(x.d[2], w.d[1], a.strides[0], int64_t{a.pads[0]} + a.pads[2], a.dilations[0]),
        outputSize(x.d[3], w.d[2], a.strides[1], int64_t{a.pads[1]} + a.pads[3], a.dilations[1])};
}

MapSize gateMap(Attributes const& a, MapSize const& output)
{
    return {(output.h + a.grid() - 1) / a.grid(), (output.w + a.grid() - 1) / a.grid()};
}

bool isOneElement(Dims const& dims)
{
    return equals(dims, {1, 1, 1, 1});
}

//! Whether the residual is a map and not the neutral one element. A network whose output has one element has residuals of that
//! size; where x is dynamic, a residual that is not is neutral.
bool residualIsMap(Attributes const& a, Dims const& x, Dims const& w, Dims const& residual)
{
    if (!isOneElement(residual))
    {
        return true;
    }
    bool const known = x.nbDims == 4 && w.nbDims == 4 && x.d[0] == 1 && x.d[2] > 0 && x.d[3] > 0 && w.d[0] == 1;
    if (!known)
    {
        return false;
    }
    MapSize const output = outputMap(a, x, w);
    return output.h == 1 && output.w == 1;
}

//! Everything that the op asks of shapes but what the kernels check themselves.
void requireShapes(Attributes const& a, Dims const* dims)
{
    Dims const& x = dims[kX];
    Dims const& w = dims[kW];
    if (w.d[3] != x.d[1])
    {
        throw std::invalid_argument("W is [K, R, S, C] with C = " + std::to_string(w.d[3]) + ", but X has " + std::to_string(x.d[1])
            + " channels; groups are not part of version 1");
    }
    if (dims[kGATE_W].d[0] != 1 || dims[kGATE_W].d[3] != x.d[1])
    {
        throw std::invalid_argument(
            "gate_W must be [1, Rg, Sg, " + std::to_string(x.d[1]) + "], not " + toText(dims[kGATE_W]));
    }
    MapSize const output = outputMap(a, x, w);
    MapSize const gate = gateMap(a, output);
    requireShape(dims, kB, {w.d[0]});
    requireShape(dims, kGATE_B, {1});
    requireShape(dims, kPOST_SCALE, {w.d[0]}, {1});
    requireShape(dims, kPOST_BIAS, {w.d[0]}, {1});
    requireShape(dims, kGATE, {x.d[0], 1, gate.h, gate.w}, {1, 1, 1, 1});
    requireShape(dims, kRESIDUAL, {x.d[0], w.d[0], output.h, output.w}, {1, 1, 1, 1});
}

} // namespace

bool takesFormat(Attributes const& attributes, int32_t position, DynamicPluginTensorDesc const* tensors)
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    DataType const type = tensors[kX].desc.type;
    bool image = position == kX || position == kINPUTS;
    if (position == kRESIDUAL)
    {
        image = residualIsMap(attributes, tensors[kX].desc.dims, tensors[kW].desc.dims, tensor.dims);
    }
    TensorFormat const format = image && type != DataType::kFLOAT ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
    return isTensorType(type) && tensor.type == (isFloat32Only(position) ? DataType::kFLOAT : type) && tensor.format == format;
}

DataType outputType(DataType const* inputs)
{
    if (!isTensorType(inputs[kX]))
    {
        throw std::invalid_argument("X must be float32, float16 or bfloat16");
    }
    for (int32_t input = 0; input < kINPUTS; ++input)
    {
        if (inputs[input] != (isFloat32Only(input) ? DataType::kFLOAT : inputs[kX]))
        {
            throw std::invalid_argument(std::string(kInputNames[input]) + (isFloat32Only(input) ? " must be float32" : " must be of X's type"));
        }
    }
    return inputs[kX];
}

lccl_conv_params makeCall(Attributes const& attributes, PluginTensorDesc const* inputs)
{
    Dims dims[kINPUTS];
    for (int32_t input = 0; input < kINPUTS; ++input)
    {
        dims[input] = inputs[input].dims;
    }
    requireRank4(dims);
    requireShapes(attributes, dims);
    lccl_conv_params call{};
    call.abi = LCCL_CUDA_ABI;
    call.dtype = dtypeOf(inputs[kX].type);
    call.layout = inputs[kX].type == DataType::kFLOAT ? LCCL_NCHW : LCCL_NHWC;
    call.n = small(dims[kX].d[0]);
    call.c = small(dims[kX].d[1]);
    call.h = small(dims[kX].d[2]);
    call.w = small(dims[kX].d[3]);
    call.k = small(dims[kW].d[0]);
    call.r = small(dims[kW].d[1]);
    call.s = small(dims[kW].d[2]);
    call.gate_r = small(dims[kGATE_W].d[1]);
    call.gate_s = small(dims[kGATE_W].d[2]);
    call.post_scale_size = small(dims[kPOST_SCALE].d[0]);
    call.post_bias_size = small(dims[kPOST_BIAS].d[0]);
    setGeometry(call, attributes);

    MapSize const output = outputMap(attributes, dims[kX], dims[kW]);
    MapSize const gate = gateMap(attributes, output);
    bool const residualLiesAsY = inputs[kRESIDUAL].format == inputs[kX].format;
    call.gate_weight = attributes.external() ? nullptr : &kMark;
    call.gate = equals(dims[kGATE], {call.n, 1, gate.h, gate.w}) ? &kMark : nullptr;
    call.residual = residualLiesAsY && equals(dims[kRESIDUAL], {call.n, call.k, output.h, output.w}) ? &kMark : nullptr;
    return call;
}

void setPointers(lccl_conv_params& call, void const* const* inputs, void* output)
{
    call.x = inputs[kX];
    call.weight = inputs[kW];
    call.bias = static_cast<float const*>(inputs[kB]);
    call.gate_weight = call.gate_weight == nullptr ? nullptr : inputs[kGATE_W];
    call.gate_bias = static_cast<float const*>(inputs[kGATE_B]);
    call.gate = call.gate == nullptr ? nullptr : inputs[kGATE];
    call.post_scale = static_cast<float const*>(inputs[kPOST_SCALE]);
    call.post_bias = static_cast<float const*>(inputs[kPOST_BIAS]);
    call.residual = call.residual == nullptr ? nullptr : inputs[kRESIDUAL];
    call.y = output;
}

} // namespace lccl::plugin
