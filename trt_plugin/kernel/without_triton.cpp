// A library that was built where Triton was not at hand: it holds no cubins.

#include "launch_triton.h"

namespace lccl
{

Cubin const* allCubins(int32_t& count)
{
    count = 0;
    return nullptr;
}

int32_t driverCuda()
{
    return 0;
}

cudaError_t launchTriton(lccl_conv_params const&, lccl_device const&, lccl_conv_config const&, void*, cudaStream_t)
{
    return cudaErrorNotSupported;
}

cudaError_t loadTriton(lccl_conv_params const&, lccl_device const&, lccl_conv_config const&)
{
    return cudaErrorNotSupported;
}

} // namespace lccl
