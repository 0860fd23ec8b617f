// The inputs of lccl::LCCLConv, version 1: their indices and the shapes that they may have.
#pragma once

#include "attributes.h"
#include "geometry.h"

#include <array>
#include <initializer_list>

namespace lccl
{

//! Indices of the op's inputs.
enum InputIndex : int32_t
{
    kX = 0,
    kW = 1,
    kB = 2,
    kGateW = 3,
    kGateB = 4,
    kGate = 5,
    kPostScale = 6,
    kPostBias = 7,
    kResidual = 8,
    kInputs = 9,
};

constexpr char const* kInputNames[kInputs] = {"X", "W", "B", "gate_W", "gate_B", "gate", "post_scale", "post_bias", "residual"};

//! Whether an input is float32 whatever T is.
constexpr bool isFloat32Only(int32_t input)
{
    return input == kB || input == kGateB || input == kPostScale || input == kPostBias;
}

//! A shape, some or all of whose sizes may be unknown.
struct Shape
{
    static constexpr int32_t kMaxRank = 8;

    int32_t rank{-1};                //!< -1: unknown
    std::array<int64_t, kMaxRank> d; //!< of the first dimensions; -1: unknown
};

using Shapes = std::array<Shape, kInputs>;

//! Whether a shape may equal `with`: each size is the same, or unknown on one side.
bool agrees(Shape const& shape, std::initializer_list<int64_t> with);

//! "[1, ?, 3]".
std::string toText(Shape const& shape);

//! \throw std::invalid_argument if the shape does not have four dimensions
void requireRank4(Shape const& shape, int32_t input);

//! Sizes of the output and of the gate map for X and W of four dimensions.
Maps mapsOf(Attributes const& attributes, Shape const& x, Shape const& w);

//! Checks shapes against the contract, as far as they are known.
//! \throw std::invalid_argument for the first shape that does not fit; the message says what it
//! should be
Maps checkShapes(Attributes const& attributes, Shapes const& shapes);

} // namespace lccl
