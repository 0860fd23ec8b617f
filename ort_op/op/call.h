// Turns the shapes of the nine inputs into a call of the CPU kernels.
#pragma once

#include "contract/call.h"

#include "lccl_cpu.h"

namespace lccl::ort
{

//! The call for inputs of these shapes, without its pointers. All sizes must be known.
//! \param maps set as checkShapes returns them
//! \throw std::invalid_argument for shapes that the op does not allow
lccl_cpu_params makeCall(Attributes const& attributes, Shapes const& shapes, Maps& maps);

//! The form that calls of these shapes share, whatever the sizes of x: n, h and w are 0, other
//! unknown sizes are 1.
//! \throw std::invalid_argument for a size that the kernels do not hold
lccl_cpu_params formOf(Attributes const& attributes, Shapes const& shapes);

//! The part of a call that decides how weights of shape [k, r, s, c] are packed.
//! \throw std::invalid_argument for another shape
lccl_cpu_params weightsOnly(Shape const& weight);

} // namespace lccl::ort
