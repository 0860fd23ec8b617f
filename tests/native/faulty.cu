// Kernels with the faults that the checks of compiled kernels look for.

#include <cstdint>

//! More values live at once than the registers that its launch bounds leave: they spill.
__global__ void __launch_bounds__(1024, 2) spills(float const* x, float* y)
{
    float values[64];
#pragma unroll
    for (int32_t i = 0; i < 64; ++i)
    {
        values[i] = x[i * 1024 + threadIdx.x];
    }
    __syncthreads();
#pragma unroll
    for (int32_t i = 0; i < 64; ++i)
    {
        y[i * 1024 + threadIdx.x] = values[i] * values[63 - i];
    }
}

//! An array indexed by what only the running kernel knows: it lies in local memory.
__global__ void indexesLocalMemory(int32_t const* x, int32_t* y)
{
    int32_t values[16];
    for (int32_t i = 0; i < 16; ++i)
    {
        values[x[i] & 15] = i;
    }
    y[threadIdx.x] = values[x[threadIdx.x] & 15];
}

//! Asynchronous copies of 4 bytes, where the kernels copy 16.
__global__ void copiesNarrowly(float const* x, float* y)
{
    __shared__ float tile[32];
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(&tile[threadIdx.x]));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.wait_all;" ::"r"(address), "l"(x + threadIdx.x)
        : "memory");
    __syncthreads();
    y[threadIdx.x] = tile[31 - threadIdx.x];
}
