// The layout of packed weights.
#pragma once

#include "lccl_cpu.h"

namespace lccl_cpu
{

size_t packedBytes(lccl_cpu_params const& params, lccl_cpu_isa const& isa);

//! \param weight [k, r, s, c]
void packWeights(lccl_cpu_params const& params, lccl_cpu_isa const& isa, float const* weight, float* packed);

} // namespace lccl_cpu
