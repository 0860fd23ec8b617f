// From the shapes of the nine inputs to a call of the CPU kernels.
#pragma once

#include "contract/call.h"

#include "lccl_cpu.h"

namespace lccl::ort
{

//! The call that inputs of these shapes make, without its pointers. All sizes are known.
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
