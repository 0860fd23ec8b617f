// The table of configurations: one row for each way to run a call.
#pragma once

#include "lccl_cuda.h"

#include <cstdint>

namespace lccl
{

//! Ids read as hexadecimal digits: family, math, tile number. 0x20201, 0x30301 and 0x30401 were
//! given away for kernels that never came, and 0x10001 to 0x30001 took 16-bit tensors once: ids are
//! not used again for something else.
constexpr int32_t configurationId(int32_t family, int32_t math, int32_t tile)
{
    return family << 16 | math << 8 | tile;
}

//! Rows of the table; names are "<family>-<math>-<tile>".
lccl_conv_config const* configurationAt(int32_t index);
int32_t configurationCount();

//! The row with this id, or null.
lccl_conv_config const* findConfiguration(int32_t id);

constexpr int32_t threadsOf(lccl_conv_config const& config)
{
    return config.warps_m * config.warps_n * 32;
}

constexpr int32_t tileNumber(lccl_conv_config const& config)
{
    return config.id & 0xff;
}

} // namespace lccl
