// From the shapes of the nine inputs to a call of the kernels.
#pragma once

#include "attributes.h"

#include "lccl_cpu.h"

#include <array>

namespace lccl::ort
{

//! Places of the op's inputs.
enum InputIndex : int32_t
{
    kX = 0,
    kW = 1,
    kB = 2,
    kGATE_W = 3,
    kGATE_B = 4,
    kGATE = 5,
    kPOST_SCALE = 6,
    kPOST_BIAS = 7,
    kRESIDUAL = 8,
    kINPUTS = 9,
};

//! Whether an input is float32 whatever T is.
constexpr bool isFloat32Only(int32_t input)
{
    return input == kB || input == kGATE_B || input == kPOST_SCALE || input == kPOST_BIAS;
}

//! A shape, or what is known of it.
struct Shape
{
    static constexpr int32_t kMAX_RANK = 8;

    int32_t rank{-1};                 //!< -1: unknown
    std::array<int64_t, kMAX_RANK> d; //!< of the first dimensions; -1: unknown
};

using Shapes = std::array<Shape, kINPUTS>;

//! Sizes of the output and of the gate's map; -1: unknown.
struct Maps
{
    int64_t ho, wo, hg, wg;
};

//! Checks shapes as the contract asks, as far as they are known.
//! \throw std::invalid_argument with a sentence: the first shape that does not fit, with what it should be
Maps checkShapes(Attributes const& attributes, Shapes const& shapes);

//! The call that inputs of these shapes make, without pointers but for a mark where a tensor is real. All sizes are known.
//! \param maps set as checkShapes returns them
//! \throw std::invalid_argument with a sentence: shapes that the op does not allow
lccl_cpu_params makeCall(Attributes const& attributes, Shapes const& shapes, Maps& maps);

//! What calls of these shapes have in common whatever the sizes of x are: n, h and w are 0, other sizes that are unknown 1.
//! \throw std::invalid_argument with a sentence: a size that the kernels do not hold
lccl_cpu_params formOf(Attributes const& attributes, Shapes const& shapes);

//! The part of a call that says what weights of shape [k, r, s, c] look like packed.
//! \throw std::invalid_argument with a sentence: it is no such shape
lccl_cpu_params weightsOnly(Shape const& weight);

} // namespace lccl::ort
