// Reads the permutations of a node's tensors, and brings shapes into the order of the contract.

#include "layouts.h"

#include <stdexcept>

namespace lccl::ort
{
namespace
{

using Permutation = std::vector<int64_t>;

Permutation const kSame{0, 1, 2, 3};
Permutation const kLastToFirst{0, 3, 1, 2}; //!< [n, h, w, c] -> [n, c, h, w]
Permutation const kFirstToLast{0, 2, 3, 1};

//! Whether the attribute is `changed`, and not kSame.
bool isChanged(AttributeSource const& source, char const* name, Permutation const& changed)
{
    Permutation values;
    if (!source.read(name, values) || (values != kSame && values != changed))
    {
        std::string wanted;
        for (int64_t const axis : changed)
        {
            wanted += (wanted.empty() ? "" : ", ") + std::to_string(axis);
        }
        throw std::invalid_argument(std::string(name) + " must be [0, 1, 2, 3] or [" + wanted + "]");
    }
    return values == changed;
}

} // namespace

Layouts readLayouts(AttributeSource const& source)
{
    Layouts layouts;
    layouts.xChannelsLast = isChanged(source, "x_to_nchw", kLastToFirst);
    layouts.yChannelsLast = isChanged(source, "y_from_nchw", kFirstToLast);
    if (isChanged(source, "residual_to_nchw", kLastToFirst) != layouts.yChannelsLast)
    {
        throw std::invalid_argument("residual_to_nchw must undo y_from_nchw: the residual has the layout of Y");
    }
    return layouts;
}

Shape inNchw(Shape const& shape, bool channelsLast)
{
    if (!channelsLast || shape.rank != 4)
    {
        return shape;
    }
    Shape changed = shape;
    changed.d[1] = shape.d[3];
    changed.d[2] = shape.d[1];
    changed.d[3] = shape.d[2];
    return changed;
}

Shapes inNchw(Shapes shapes, Layouts const& layouts)
{
    shapes[kX] = inNchw(shapes[kX], layouts.xChannelsLast);
    shapes[kResidual] = inNchw(shapes[kResidual], layouts.yChannelsLast);
    return shapes;
}

} // namespace lccl::ort
