// One LCCLConv node: its constants, the layout of its memory, its calls.
#include "node.h"

#include "convert.h"
#include "isa.h"
#include "loop.h"

#include <algorithm>

namespace lccl::ort
{
namespace
{

constexpr size_t kChunk = size_t{1} << 14; //!< elements that a thread converts at a time

size_t elements(Shape const& shape)
{
    size_t count = 1;
    for (int32_t i = 0; i < shape.rank; ++i)
    {
        count *= static_cast<size_t>(shape.d[static_cast<size_t>(i)]);
    }
    return count;
}

Shape shapeOf(OrtApi const& api, OrtValue const* value)
{
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    Shape shape;
    shape.d.fill(0);
    bool const read = succeeded(api, api.GetDimensionsCount(info, &rank))
        && succeeded(api, api.GetDimensions(info, shape.d.data(), std::min(rank, shape.d.size())));
    api.ReleaseTensorTypeAndShapeInfo(info);
    if (!read)
    {
        throw Failure("ONNX Runtime does not tell the shape of an input");
    }
    shape.rank = static_cast<int32_t>(rank);
    return shape;
}

//! The shape of an input as the model declares it.
Shape declaredShape(OrtApi const& api, OrtKernelInfo const* info, size_t input)
{
    Shape shape;
    OrtTypeInfo* type = nullptr;
    if (!succeeded(api, api.KernelInfo_GetInputTypeInfo(info, input, &type)))
    {
        return shape;
    }
    OrtTensorTypeAndShapeInfo const* tensor = nullptr; // of the type
    size_t rank = 0;
    shape.d.fill(-1);
    if (succeeded(api, api.CastTypeInfoToTensorInfo(type, &tensor)) && tensor != nullptr
        && succeeded(api, api.GetDimensionsCount(tensor, &rank)) && rank > 0 // a shape that is not known is told as one of none
        && succeeded(api, api.GetDimensions(tensor, shape.d.data(), std::min(rank, shape.d.size()))))
    {
        shape.rank = static_cast<int32_t>(rank);
    }
    api.ReleaseTypeInfo(type);
    return shape;
}

//! Whether all bytes are 0. -0 counts as another number: no exporter writes it.
bool isZero(void const* data, size_t bytes)
{
    auto const* const begin = static_cast<unsigned char const*>(data);
    return std::all_of(begin, begin + bytes, [](unsigned char byte) { return byte == 0; });
}

//! Requires all nine inputs.
//! \throw std::invalid_argument if one is missing
void requireInputs(bool areThere)
{
    require(areThere, "all nine inputs must be there, with their neutral values where a form lacks them");
}

//! \throw std::invalid_argument if the kernels do not support the call
void requireSupported(lccl_cpu_params const& call, int32_t isa)
{
    char reason[256] = "";
    if (lccl_cpu_supported(&call, isa, reason, sizeof reason) == 0)
    {
        throw std::invalid_argument(reason);
    }
}

//! A conversion of element types, cut into parts for several threads.
struct Conversion
{
    ONNXTensorElementDataType type;
    void const* from;
    void* to;
    size_t count;
    bool toFloat32;

    void part(size_t first, size_t length) const
    {
        bool const half = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        if (toFloat32)
        {
            (half ? fromFloat16 : fromBfloat16)(
                static_cast<uint16_t const*>(from) + first, static_cast<float*>(to) + first, length);
        }
        else
        {
            (half ? toFloat16 : toBfloat16)(
                static_cast<float const*>(from) + first, static_cast<uint16_t*>(to) + first, length);
        }
    }

    static void step(void* data, size_t index)
    {
        auto const& self = *static_cast<Conversion const*>(data);
        size_t const first = index * kChunk;
        self.part(first, std::min(kChunk, self.count - first));
    }
};

//! \param loop may be null: on this thread
void convert(Conversion conversion, Loop* loop)
{
    if (loop == nullptr || conversion.count <= kChunk)
    {
        conversion.part(0, conversion.count);
        return;
    }
    Loop::run(loop, (conversion.count + kChunk - 1) / kChunk, &Conversion::step, &conversion);
}

} // namespace

struct Node::Tensors
{
    Shapes shapes;
    void const* data[kInputs];
};

struct Node::Layout
{
    size_t workspace{0};
    size_t workspaceBytes{0};
    size_t packed{0};
    size_t floats[kInputs]{}; //!< of inputs that are converted
    size_t y{0};
    size_t bytes{0};

    size_t add(size_t size)
    {
        size_t const at = bytes;
        bytes += (size + 63) / 64 * 64;
        return at;
    }
};

std::string nodeName(OrtApi const& api, OrtKernelInfo const* info)
{
    size_t size = 0;
    if (!succeeded(api, api.KernelInfo_GetNodeName(info, nullptr, &size)) || size == 0)
    {
        return {};
    }
    std::string name(size, '\0');
    if (!succeeded(api, api.KernelInfo_GetNodeName(info, name.data(), &size)))
    {
        return {};
    }
    name.resize(name.find('\0') == std::string::npos ? name.size() : name.find('\0'));
    return name;
}

Node::Node(OrtApi const& api, OrtKernelInfo const* info, ONNXTensorElementDataType type, bool hasLayouts, bool hasGate)
    : mApi(api)
    , mType(type)
    , mName(nodeName(api, info))
    , mAttributes(readAttributes(KernelAttributes(api, info)))
    , mLayouts(hasLayouts ? readLayouts(KernelAttributes(api, info)) : Layouts{})
    , mHasGate(hasGate)
    , mIsa(chooseIsa())
    , mPool(poolOf(api, info))
    , mDensity(*mAttributes.density)
{
    keepConstants(info);
    scratch().addUser(); // the last that may fail is done: the destructor takes it back
}

Node::~Node()
{
    scratch().removeUser();
}

void Node::keepConstants(OrtKernelInfo const* info)
{
    size_t count = 0;
    check(mApi, mApi.KernelInfo_GetInputCount(info, &count));
    requireInputs(count == kInputs);
    Shapes shapes;
    for (size_t input = 0; input < kInputs; ++input)
    {
        shapes[input] = declaredShape(mApi, info, input);
    }
    shapes = inNchw(shapes, mLayouts);
    checkShapes(mAttributes, shapes);                    // here, since ONNX Runtime drops what the inference of shapes says
    requireSupported(formOf(mAttributes, shapes), mIsa); // here, so that no model that cannot run gets a session
    bool const isFloat32 = mType == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    for (int32_t input = 0; input < kInputs; ++input)
    {
        int isConstant = 0;
        OrtValue const* value = nullptr;
        check(mApi, mApi.KernelInfoGetConstantInput_tensor(info, static_cast<size_t>(input), &isConstant, &value));
        Shape& shape = mConstantShapes[static_cast<size_t>(input)];
        if (isConstant == 0 || value == nullptr)
        {
            continue;
        }
        shape = shapeOf(mApi, value);
        if (input != kW && input != kGateW)
        {
            continue;
        }
        void* data = nullptr;
        check(mApi, mApi.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
        if (input == kGateW && mAttributes.external() && !isZero(data, elements(shape) * (isFloat32 ? 4 : 2)))
        {
            throw std::invalid_argument("gate_source is external, but gate_W is not 0");
        }
        if (input == kGateW && isFloat32)
        {
            continue;
        }
        Buffer floats;
        if (!isFloat32)
        {
            floats = Buffer(elements(shape) * sizeof(float));
            convert({mType, data, floats.data(), elements(shape), true}, nullptr);
        }
        if (input == kGateW)
        {
            mGateWeight = std::move(floats);
            continue;
        }
        lccl_cpu_params const weights = weightsOnly(shape);
        mPackedWeight = Buffer(lccl_cpu_packed_size(&weights, mIsa));
        if (mPackedWeight.size() > 0)
        {
            lccl_cpu_pack(&weights, mIsa, static_cast<float const*>(floats.data() != nullptr ? floats.data() : data),
                mPackedWeight.data());
        }
    }
}

Node::Tensors Node::readTensors(OrtKernelContext* context) const
{
    Tensors tensors;
    for (size_t input = 0; input < kInputs; ++input)
    {
        OrtValue const* value = nullptr;
        check(mApi, mApi.KernelContext_GetInput(context, input, &value));
        requireInputs(value != nullptr);
        void* data = nullptr;
        check(mApi, mApi.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
        tensors.data[input] = data;
        tensors.shapes[input] = mConstantShapes[input].rank >= 0 ? mConstantShapes[input] : shapeOf(mApi, value);
    }
    return tensors;
}

Node::Layout Node::layOut(lccl_cpu_params const& call, Tensors const& tensors) const
{
    Layout layout;
    layout.workspaceBytes = lccl_cpu_workspace(&call, mIsa);
    if (layout.workspaceBytes == 0)
    {
        requireSupported(call, mIsa);
    }
    layout.workspace = layout.add(layout.workspaceBytes);
    bool const packs = mPackedWeight.size() == 0;
    if (packs)
    {
        layout.packed = layout.add(lccl_cpu_packed_size(&call, mIsa));
    }
    if (mType == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    {
        return layout;
    }
    bool const converts[kInputs]{true, packs, false, call.has_gate_weight != 0 && mGateWeight.size() == 0, false,
        call.has_gate != 0, false, false, call.has_residual != 0};
    for (size_t input = 0; input < kInputs; ++input)
    {
        if (converts[input])
        {
            layout.floats[input] = layout.add(elements(tensors.shapes[input]) * sizeof(float));
        }
    }
    return layout;
}

void Node::compute(OrtKernelContext* context) const
{
    Tensors const tensors = readTensors(context);
    Maps maps;
    lccl_cpu_params call = makeCall(mAttributes, inNchw(tensors.shapes, mLayouts), maps);
    call.x_channels_last = mLayouts.xChannelsLast ? 1 : 0;
    call.y_channels_last = mLayouts.yChannelsLast ? 1 : 0;
    if (!mHasGate) // every gate is 1
    {
        call.has_gate = call.has_gate_weight = 0;
        call.gate_slope = call.gate_max = 1;
        call.gate_threshold = 0;
    }
    int64_t const first[4]{call.n, call.k, maps.ho, maps.wo}, last[4]{call.n, maps.ho, maps.wo, call.k};
    int64_t const* const yShape = mLayouts.yChannelsLast ? last : first;
    OrtValue* yValue = nullptr;
    check(mApi, mApi.KernelContext_GetOutput(context, 0, yShape, 4, &yValue));
    void* y = nullptr;
    check(mApi, mApi.GetTensorMutableData(yValue, &y));
    size_t const yElements = static_cast<size_t>(call.n) * static_cast<size_t>(call.k) * static_cast<size_t>(maps.ho * maps.wo);
    if (yElements == 0)
    {
        return;
    }
    bool const isFloat32 = mType == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    call.threads = mPool->threads(mApi, context);
    call.density = mDensity.load(std::memory_order_relaxed);
    Layout layout = layOut(call, tensors);
    layout.y = isFloat32 ? 0 : layout.add(yElements * sizeof(float));
    Borrowed const memory(layout.bytes);
    Loop loop(mApi, context);
    Loop* const threads = call.threads > 1 ? &loop : nullptr;
    auto const floats = [&](int32_t input) -> float const*
    {
        if (isFloat32)
        {
            return static_cast<float const*>(tensors.data[input]);
        }
        float* const to = reinterpret_cast<float*>(memory.data() + layout.floats[input]);
        convert({mType, tensors.data[input], to, elements(tensors.shapes[static_cast<size_t>(input)]), true}, threads);
        return to;
    };
    call.packed_weight = mPackedWeight.data();
    if (mPackedWeight.size() == 0)
    {
        lccl_cpu_pack(&call, mIsa, floats(kW), memory.data() + layout.packed);
        call.packed_weight = memory.data() + layout.packed;
    }
    bool const hasGateFloats = mGateWeight.size() > 0;
    call.x = floats(kX);
    call.bias = static_cast<float const*>(tensors.data[kB]);
    call.gate_bias = mHasGate ? static_cast<float const*>(tensors.data[kGateB]) : nullptr;
    call.post_scale = static_cast<float const*>(tensors.data[kPostScale]);
    call.post_bias = static_cast<float const*>(tensors.data[kPostBias]);
    if (call.has_gate_weight != 0)
    {
        call.gate_weight = hasGateFloats ? reinterpret_cast<float const*>(mGateWeight.data()) : floats(kGateW);
    }
    call.gate = call.has_gate != 0 ? floats(kGate) : nullptr;
    call.residual = call.has_residual != 0 ? floats(kResidual) : nullptr;
    call.y = isFloat32 ? static_cast<float*>(y) : reinterpret_cast<float*>(memory.data() + layout.y);
    int64_t active = 0;
    call.active = &active;
    loop.check(); // of the conversions
    int32_t const status = lccl_cpu_run(&call, mIsa, memory.data() + layout.workspace, layout.workspaceBytes,
        threads == nullptr ? nullptr : &Loop::run, threads);
    loop.check();
    if (status != LCCL_CPU_OK)
    {
        throw std::runtime_error("the kernels return status " + std::to_string(status));
    }
    if (!isFloat32)
    {
        convert({mType, call.y, y, yElements, false}, threads);
        loop.check();
    }
    learn(active, call.n * maps.ho * maps.wo);
}

void Node::learn(int64_t active, int64_t pixels) const
{
    mDensity.store(static_cast<float>(active) / static_cast<float>(pixels), std::memory_order_relaxed);
}

OrtStatus* Node::run(OrtKernelContext* context) const noexcept
{
    return guarded(mApi, mName, [&] { compute(context); });
}

} // namespace lccl::ort
