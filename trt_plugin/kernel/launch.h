// Starts the CUDA kernels of a call.
#pragma once

#include "plan.h"

namespace lccl
{

//! Whether this library holds them: it was built by nvcc.
bool hasCudaKernels();

//! Enqueues pack (where weights need it), gate and the main kernel.
//! \return the first error
cudaError_t launchCuda(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config,
    void* workspace, cudaStream_t stream);

//! Loads the code of these kernels.
//! \return the first error
cudaError_t loadCuda(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

} // namespace lccl
