// The layouts of X, the residual and Y of the private ops lccl.ort::LCCLConv and lccl.ort::Conv.
//
// Their attributes are those of lccl::LCCLConv and three permutations, as ONNX's Transpose takes
// them: the functions in the model give them to Transpose.
#pragma once

#include "attributes.h"

#include "contract/shapes.h"

namespace lccl::ort
{

//! Which tensors have their channels innermost.
struct Layouts
{
    bool xChannelsLast{false};
    bool yChannelsLast{false}; //!< the residual too
};

//! Reads x_to_nchw, residual_to_nchw and y_from_nchw.
//! \throw std::invalid_argument where one is missing or is no layout that the kernels have
Layouts readLayouts(AttributeSource const& source);

//! A shape in the order of the contract. One that is not known, or has other than four dimensions,
//! stays as it is.
Shape inNchw(Shape const& shape, bool channelsLast);

//! The shapes of all inputs in the order of the contract.
Shapes inNchw(Shapes shapes, Layouts const& layouts);

} // namespace lccl::ort
