// A library that was built without nvcc: it holds the Triton kernels alone.

#include "launch.h"

namespace lccl
{

bool hasCudaKernels()
{
    return false;
}

cudaError_t launchCuda(lccl_conv_params const&, lccl_device const&, lccl_conv_config const&, void*, cudaStream_t)
{
    return cudaErrorNotSupported;
}

cudaError_t loadCuda(lccl_conv_params const&, lccl_device const&, lccl_conv_config const&)
{
    return cudaErrorNotSupported;
}

} // namespace lccl
