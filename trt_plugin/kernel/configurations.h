// The table of configurations: one row for each way to run a call.
#pragma once

#include "lccl_cuda.h"

#include <cstdint>

namespace lccl
{

//! Shape of a tensor-core tile: one list for the table, the launcher and the instantiations.
//! X(number, rows, columns, stages, warps along rows, warps along columns, blocks per multiprocessor, registers a thread)
//! Numbers and configuration ids are for ever: engines and timing caches keep them. New tiles get new numbers.
#define LCCL_MMA_TILES(X)                                                                                                                  \
    X(1, 128, 128, 3, 2, 4, 1, 208)                                                                                                        \
    X(2, 128, 64, 3, 2, 2, 2, 232)                                                                                                         \
    X(3, 64, 64, 4, 2, 2, 3, 160)                                                                                                          \
    X(4, 128, 128, 3, 2, 2, 2, 255)                                                                                                        \
    X(5, 128, 256, 3, 2, 4, 1, 255)

//! Ids read as hexadecimal digits: family, engine, tile number.
constexpr int32_t configurationId(int32_t family, int32_t engine, int32_t tile)
{
    return family << 16 | engine << 8 | tile;
}

//! Rows of the table; names are "<family>-<engine>-<tile>".
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
