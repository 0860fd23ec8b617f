// The operations of the machine, one function each: PTX on a GPU, an emulated machine on a CPU.
//
// Kernels reach shared memory by 32-bit addresses and global memory by these functions only, so
// that the emulated machine sees every access: it runs the kernels' own source lane by lane and
// reports what a GPU would do wrong in silence.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LCCL_DEVICE __device__ __forceinline__
#define LCCL_HOST_DEVICE __host__ __device__ __forceinline__
#define LCCL_UNROLL _Pragma("unroll")
#define LCCL_NO_UNROLL _Pragma("unroll 1")
#else
#define LCCL_DEVICE inline
#define LCCL_HOST_DEVICE inline
#define LCCL_UNROLL
#define LCCL_NO_UNROLL
#endif

namespace lccl
{

//! 16 bytes: what a vector access moves.
struct alignas(16) Vec16
{
    uint32_t word[4];
};

//! 8 bytes.
struct alignas(8) Vec8
{
    uint32_t word[2];
};

//! Elements in memory; arithmetic is in float.
struct Half
{
    uint16_t bits;
};
struct Bfloat16
{
    uint16_t bits;
};

//! Lanes of a warp.
constexpr int32_t kWarpSize = 32;

} // namespace lccl

#if defined(__CUDACC__)
#include "machine_cuda.cuh"
#elif defined(LCCL_WITHOUT_NVCC)
#include "machine_declared.h"
#else
#include "machine_emulated.h" // tests/emulator
#endif
