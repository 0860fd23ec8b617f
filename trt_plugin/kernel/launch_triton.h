// Starts the Triton kernels of a call.
#pragma once

#include "triton_plan.h"

namespace lccl
{

//! Enqueues gate, the main kernel, and the kernel that writes closed pixels.
//! \return the first error; cudaErrorUnknown where a cubin asks for a parameter that is not known,
//! cudaErrorNoKernelImageForDevice where the current device has no cubin here
cudaError_t launchTriton(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config,
    void* workspace, cudaStream_t stream);

//! Loads these kernels on the current device.
//! \return the first error
cudaError_t loadTriton(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

} // namespace lccl
