// Starts the kernels of a call.
#pragma once

#include "plan.h"

namespace lccl
{

//! Enqueues pack (where weights need it), gate and the main kernel.
//! \return the first error
cudaError_t launch(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config, void* workspace,
    cudaStream_t stream);

//! Loads the code of these kernels.
//! \return the first error
cudaError_t load(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

} // namespace lccl
