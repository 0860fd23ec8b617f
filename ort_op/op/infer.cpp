// Infers the shape of Y, as far as the shapes of the inputs are known.

#include "infer.h"

#include "attributes.h"
#include "call.h"
#include "layouts.h"

#include <algorithm>
#include <atomic>

namespace lccl::ort
{
namespace
{

//! A shape and the names of its dimensions; empty where a dimension is a number or has none.
struct NamedShape
{
    Shape shape;
    std::string names[Shape::kMaxRank];
};

NamedShape inputShape(OrtApi const& api, OrtShapeInferContext const* context, size_t input)
{
    NamedShape named;
    OrtTensorTypeAndShapeInfo* info = nullptr; // of the context, which frees it
    if (!succeeded(api, api.ShapeInferContext_GetInputTypeShape(context, input, &info)) || info == nullptr)
    {
        return named;
    }
    size_t rank = 0;
    check(api, api.GetDimensionsCount(info, &rank));
    if (rank == 0)
    {
        return named; // a shape that is not known is told as one of no dimensions
    }
    Shape& shape = named.shape;
    shape.rank = static_cast<int32_t>(rank);
    shape.d.fill(-1);
    size_t const known = std::min(rank, shape.d.size());
    check(api, api.GetDimensions(info, shape.d.data(), known));
    char const* names[Shape::kMaxRank]{};
    check(api, api.GetSymbolicDimensions(info, names, known));
    for (size_t i = 0; i < known; ++i)
    {
        shape.d[i] = shape.d[i] < 0 ? -1 : shape.d[i];
        named.names[i] = shape.d[i] < 0 && names[i] != nullptr ? names[i] : "";
    }
    return named;
}

//! A shape and its names in the order of the contract.
NamedShape inNchw(NamedShape const& named, bool channelsLast)
{
    NamedShape changed = named;
    changed.shape = lccl::ort::inNchw(named.shape, channelsLast);
    if (channelsLast && named.shape.rank == 4)
    {
        changed.names[1] = named.names[3];
        changed.names[2] = named.names[1];
        changed.names[3] = named.names[2];
    }
    return changed;
}

//! A name that no other dimension has, since ONNX Runtime takes dimensions of one name for equal.
std::string freshName()
{
    static std::atomic<uint64_t> count{0};
    return "lccl_" + std::to_string(count.fetch_add(1));
}

//! The name of an output size along an axis of unknown size: the same for the same sizes.
std::string outputName(Attributes const& a, NamedShape const& x, NamedShape const& w, size_t axis)
{
    std::string const& size = x.names[2 + axis];
    int64_t const kernel = w.shape.rank == 4 ? w.shape.d[1 + axis] : -1;
    if (size.empty() || kernel < 0)
    {
        return freshName();
    }
    int64_t const added = int64_t{a.pads[axis]} + a.pads[axis + 2] - a.dilations[axis] * (kernel - 1);
    std::string const whole = added == 0 ? size : "(" + size + (added > 0 ? "+" : "") + std::to_string(added) + ")";
    int32_t const stride = a.strides[axis];
    return stride == 1 ? whole : "(" + whole + "-1)//" + std::to_string(stride) + "+1";
}

//! Writes the sizes and names, of [N, K, Ho, Wo], as the context's output.
void setOutput(OrtApi const& api, OrtShapeInferContext* context, int64_t const (&sizes)[4], std::string const (&names)[4],
    bool channelsLast)
{
    size_t const places[4]{0, channelsLast ? 2U : 1U, channelsLast ? 3U : 2U, channelsLast ? 1U : 3U};
    OrtTensorTypeAndShapeInfo* x = nullptr; // of the context, which frees it
    check(api, api.ShapeInferContext_GetInputTypeShape(context, kX, &x));
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    check(api, api.GetTensorElementType(x, &type));
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    char const* texts[4];
    int64_t ordered[4];
    for (size_t i = 0; i < 4; ++i)
    {
        texts[i] = names[places[i]].c_str();
        ordered[i] = sizes[places[i]];
    }
    bool const set = succeeded(api, api.SetTensorElementType(info, type)) && succeeded(api, api.SetDimensions(info, ordered, 4))
        && succeeded(api, api.SetSymbolicDimensions(info, texts, 4))
        && succeeded(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
    api.ReleaseTensorTypeAndShapeInfo(info);
    if (!set)
    {
        throw Failure("ONNX Runtime does not take the shape of Y");
    }
}

} // namespace

void inferShape(OrtApi const& api, OrtShapeInferContext* context, bool hasLayouts)
{
    size_t count = 0;
    check(api, api.ShapeInferContext_GetInputCount(context, &count));
    if (count != kInputs)
    {
        throw std::invalid_argument("takes all " + std::to_string(int{kInputs}) + " inputs, not " + std::to_string(count));
    }
    ShapeAttributes const source(api, context);
    Attributes const attributes = readAttributes(source);
    Layouts const layouts = hasLayouts ? readLayouts(source) : Layouts{};
    NamedShape named[kInputs];
    Shapes shapes;
    for (size_t input = 0; input < kInputs; ++input)
    {
        bool const last = (input == kX && layouts.xChannelsLast) || (input == kResidual && layouts.yChannelsLast);
        named[input] = inNchw(inputShape(api, context, input), last);
        shapes[input] = named[input].shape;
    }
    NamedShape const& x = named[kX];
    NamedShape const& w = named[kW];
    Maps const maps = checkShapes(attributes, shapes);
    int64_t const sizes[4]{x.shape.rank == 4 ? x.shape.d[0] : -1, w.shape.rank == 4 ? w.shape.d[0] : -1, maps.ho, maps.wo};
    std::string names[4];
    for (size_t i = 0; i < 4; ++i)
    {
        if (sizes[i] >= 0)
        {
            continue;
        }
        if (i >= 2)
        {
            names[i] = outputName(attributes, x, w, i - 2);
            continue;
        }
        std::string const& first = (i == 0 ? x : w).names[0];
        names[i] = first.empty() ? freshName() : first;
    }
    setOutput(api, context, sizes, names, layouts.yChannelsLast);
}

} // namespace lccl::ort
