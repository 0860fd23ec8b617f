// Checks the shapes of the inputs against the contract, and says in a sentence what does not fit.
#include "shapes.h"

#include <stdexcept>

namespace lccl
{
namespace
{

//! Whether two sizes are equal, or either is unknown.
bool agree(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a == b;
}

std::string toText(int64_t size)
{
    return size < 0 ? "?" : std::to_string(size);
}

std::string toText(std::initializer_list<int64_t> sizes)
{
    Shape shape;
    shape.rank = 0;
    for (int64_t const size : sizes)
    {
        shape.d[static_cast<size_t>(shape.rank++)] = size;
    }
    return toText(shape);
}

void requireShape(
    Shapes const& shapes, int32_t input, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> orElse = {})
{
    Shape const& given = shapes[static_cast<size_t>(input)];
    if (!agrees(given, shape) && (orElse.size() == 0 || !agrees(given, orElse)))
    {
        std::string const choices = toText(shape) + (orElse.size() == 0 ? "" : " or " + toText(orElse));
        throw std::invalid_argument(std::string(kInputNames[input]) + " must be " + choices + ", not " + toText(given));
    }
}

//! The input's shape; four unknown dimensions where it is unknown.
Shape ofRank4(Shapes const& shapes, int32_t input)
{
    Shape shape = shapes[static_cast<size_t>(input)];
    if (shape.rank < 0)
    {
        shape.rank = 4;
        shape.d.fill(-1);
    }
    requireRank4(shape, input);
    return shape;
}

//! As convSize and gateSize, or -1 where a size is not known.
int64_t convSizeIfKnown(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation)
{
    return size < 0 || kernel < 0 ? -1 : convSize(size, kernel, stride, before, after, dilation);
}

int64_t gateSizeIfKnown(int64_t size, int64_t grid)
{
    return size < 0 ? -1 : gateSize(size, grid);
}

void checkGate(Attributes const& a, Shape const& x, Shape const& gateWeight, Maps const& maps)
{
    int64_t const h = convSizeIfKnown(
        x.d[2], gateWeight.d[1], a.gate_strides[0], a.gate_pads[0], a.gate_pads[2], a.gate_dilations[0]);
    int64_t const w = convSizeIfKnown(
        x.d[3], gateWeight.d[2], a.gate_strides[1], a.gate_pads[1], a.gate_pads[3], a.gate_dilations[1]);
    if (!agree(h, maps.hg) || !agree(w, maps.wg))
    {
        throw std::invalid_argument(gateSizeText(h, w, maps.ho, maps.wo, a.grid(), maps.hg, maps.wg));
    }
}

} // namespace

bool agrees(Shape const& shape, std::initializer_list<int64_t> with)
{
    if (shape.rank < 0)
    {
        return true;
    }
    if (shape.rank != static_cast<int32_t>(with.size()))
    {
        return false;
    }
    size_t i = 0;
    for (int64_t const size : with)
    {
        if (!agree(shape.d[i++], size))
        {
            return false;
        }
    }
    return true;
}

std::string toText(Shape const& shape)
{
    std::string text = "[";
    for (int32_t i = 0; i < shape.rank && i < Shape::kMaxRank; ++i)
    {
        text += (i > 0 ? ", " : "") + toText(shape.d[static_cast<size_t>(i)]);
    }
    return text + "]";
}

void requireRank4(Shape const& shape, int32_t input)
{
    if (shape.rank != 4)
    {
        throw std::invalid_argument(std::string(kInputNames[input]) + " must have 4 dimensions, not " + toText(shape));
    }
}

Maps mapsOf(Attributes const& a, Shape const& x, Shape const& w)
{
    int64_t const ho = convSizeIfKnown(x.d[2], w.d[1], a.strides[0], a.pads[0], a.pads[2], a.dilations[0]);
    int64_t const wo = convSizeIfKnown(x.d[3], w.d[2], a.strides[1], a.pads[1], a.pads[3], a.dilations[1]);
    return {ho, wo, gateSizeIfKnown(ho, a.grid()), gateSizeIfKnown(wo, a.grid())};
}

Maps checkShapes(Attributes const& attributes, Shapes const& shapes)
{
    Shape const x = ofRank4(shapes, kX);
    Shape const w = ofRank4(shapes, kW);
    Shape const gateWeight = ofRank4(shapes, kGateW);
    ofRank4(shapes, kGate);
    ofRank4(shapes, kResidual);
    if (!agree(w.d[3], x.d[1]))
    {
        throw std::invalid_argument("W is [K, R, S, C] with C = " + std::to_string(w.d[3]) + ", but X has "
            + std::to_string(x.d[1]) + " channels; groups are not part of version 1");
    }
    if (!agree(gateWeight.d[0], 1) || !agree(gateWeight.d[3], x.d[1]))
    {
        throw std::invalid_argument("gate_W must be [1, Rg, Sg, " + toText(x.d[1]) + "], not " + toText(gateWeight));
    }
    Maps const maps = mapsOf(attributes, x, w);
    if (maps.ho == 0 || maps.wo == 0)
    {
        throw std::invalid_argument(noPixelText(x.d[2], x.d[3], w.d[1], w.d[2]));
    }
    checkGate(attributes, x, gateWeight, maps);
    requireShape(shapes, kB, {w.d[0]});
    requireShape(shapes, kGateB, {1});
    requireShape(shapes, kGate, {x.d[0], 1, maps.hg, maps.wg}, {1, 1, 1, 1});
    requireShape(shapes, kPostScale, {w.d[0]}, {1});
    requireShape(shapes, kPostBias, {w.d[0]}, {1});
    requireShape(shapes, kResidual, {x.d[0], w.d[0], maps.ho, maps.wo}, {1, 1, 1, 1});
    return maps;
}

} // namespace lccl
