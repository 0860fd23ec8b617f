// Starts a kernel on a GPU; includes CUDA's runtime, so only files that start kernels include it.
#pragma once

#include "machine.h"

#include <cuda_runtime_api.h>

namespace lccl::machine
{

template <typename Kernel, typename Arguments>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm) entry(__grid_constant__ Arguments const arguments)
{
    Kernel::run(arguments);
}

//! Loads a kernel's code, which its first launch would do otherwise.
template <typename Kernel, typename Arguments>
cudaError_t load()
{
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&entry<Kernel, Arguments>));
}

//! Enqueues a kernel. Allowed while a stream is captured.
template <typename Kernel, typename Arguments>
cudaError_t launch(Arguments const& arguments, int32_t blocks, int32_t sharedBytes, cudaStream_t stream)
{
    constexpr int32_t kSharedWithoutOptIn = 48 * 1024;
    auto const function = reinterpret_cast<void const*>(&entry<Kernel, Arguments>);
    if (sharedBytes > kSharedWithoutOptIn)
    {
        cudaError_t const error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes);
        if (error != cudaSuccess)
        {
            return error;
        }
    }
    void* pointers[] = {const_cast<Arguments*>(&arguments)};
    return cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)), dim3(Kernel::kThreads), pointers,
        static_cast<size_t>(sharedBytes), stream);
}

} // namespace lccl::machine
