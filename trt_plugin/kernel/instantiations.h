// Declares all kernels; each is compiled in a file of its own, which CMake writes.
#pragma once

#include "configurations.h"
#include "gate.h"
#include "gemm.h"
#include "pack.h"
#include "simt.h"
#include "tiles.h"

#if defined(__CUDACC__)
#include "launch_cuda.cuh"
#endif

#define LCCL_DECLARE_KERNEL(...)                                                                                               \
    extern template cudaError_t machine::load<__VA_ARGS__, Arguments>();                                                       \
    extern template cudaError_t machine::launch<__VA_ARGS__, Arguments>(Arguments const&, int32_t, int32_t, cudaStream_t)
#define LCCL_DEFINE_KERNEL(...)                                                                                                \
    template cudaError_t machine::load<__VA_ARGS__, Arguments>();                                                              \
    template cudaError_t machine::launch<__VA_ARGS__, Arguments>(Arguments const&, int32_t, int32_t, cudaStream_t)

namespace lccl
{

#define LCCL_DECLARE_TILE(NUMBER, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS, REGISTERS)                                           \
    LCCL_DECLARE_KERNEL(GatedGemm<Half, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS>);                                              \
    LCCL_DECLARE_KERNEL(GatedGemm<Bfloat16, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS>);
LCCL_MMA_TILES(LCCL_DECLARE_TILE)
#undef LCCL_DECLARE_TILE

LCCL_DECLARE_KERNEL(SimtGemm);
LCCL_DECLARE_KERNEL(GateKernel<float>);
LCCL_DECLARE_KERNEL(GateKernel<Half>);
LCCL_DECLARE_KERNEL(GateKernel<Bfloat16>);
LCCL_DECLARE_KERNEL(PackKernel<Half>);
LCCL_DECLARE_KERNEL(PackKernel<Bfloat16>);

} // namespace lccl
