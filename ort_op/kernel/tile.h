// The micro-kernel: multiplies rows of a window by a panel of weights, with sums in registers. It
// reads a row where it lies, tap by tap, and does not know which pixels the rows are.
#pragma once

#include "vector.h"

#include <stddef.h>

namespace LCCL_CPU_ISA
{

constexpr int kTileRows = LCCL_CPU_TILE_ROWS;
constexpr int kTileVectors = 2;
constexpr int kTileColumns = kTileVectors * kLanes;

//! What is done to a finished sum. Vectors are of the panel's channels.
struct Epilogue
{
    float const* bias;
    float const* postScale; //!< null: 1 and 0
    float const* postBias;
    float activationAlpha;
    float postAlpha; //!< 1 where the residual is still to be added
};

//! One pass: some taps, some input channels, of a tile.
struct Pass
{
    float const* const* rows; //!< [tile rows], at the first tap
    int64_t const* tapOffset; //!< [taps], floats from the first tap
    uint64_t taps;            //!< the taps of this pass that are not padding for every row
    int64_t channels;         //!< of each tap
    int64_t firstChannel;
    float const* weights; //!< of the panel, at tap 0 and firstChannel
    int64_t weightsOfTap; //!< floats from tap to tap
    float* sums;          //!< [tile rows, sumsPitch]
    int64_t sumsPitch;
    float const* gate; //!< [tile rows]
    bool first;
    float const* ahead;       //!< the next pass's weights; each tile prefetches its share into L2
    int64_t aheadStep;        //!< floats to prefetch in each step
    Epilogue const* epilogue; //!< null: other passes follow
};

typedef void (*TileFunction)(Pass const&);

template <int kRows, int kVectors>
LCCL_INLINE void finish(Vector (&sum)[kRows][kVectors], Pass const& pass)
{
    Epilogue const& e = *pass.epilogue;
    for (int j = 0; j < kVectors; ++j)
    {
        Vector const bias = load(e.bias + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
        {
            sum[i][j] += bias;
        }
    }
    if (e.activationAlpha != 1.0F)
    {
        Vector const alpha = broadcast(e.activationAlpha);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
        {
            for (int j = 0; j < kVectors; ++j)
            {
                sum[i][j] = leaky(sum[i][j], alpha);
            }
        }
    }
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j)
    {
        Vector const scale = e.postScale != nullptr ? load(e.postScale + j * kLanes) : broadcast(1.0F);
        Vector const offset = e.postScale != nullptr ? load(e.postBias + j * kLanes) : Vector{};
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
        {
            Vector const g = broadcast(pass.gate[i]);
            Vector const v = sum[i][j] * g;
            Vector const open = e.postScale != nullptr ? multiplyAdd(v, scale, offset) : v;
            sum[i][j] = g > 0 ? open : offset; // what a closed pixel computed, a NaN perhaps, ends here
        }
    }
    if (e.postAlpha != 1.0F)
    {
        Vector const alpha = broadcast(e.postAlpha);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
        {
            for (int j = 0; j < kVectors; ++j)
            {
                sum[i][j] = leaky(sum[i][j], alpha);
            }
        }
    }
}

template <int kRows, int kVectors>
LCCL_INLINE void step(Vector (&sum)[kRows][kVectors], float const* const (&row)[kRows], int64_t at, float const* weights)
{
    Vector w[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
    {
        w[j] = load(weights + j * kLanes);
        keepInRegister(w[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
    {
        Vector const x = broadcast(row[i][at]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
        {
            sum[i][j] = multiplyAdd(x, w[j], sum[i][j]);
        }
    }
}

template <int kRows, int kVectors>
static void tile(Pass const& pass)
{
    constexpr int kWidth = kVectors * kLanes;
    float const* ahead = pass.ahead;
    Vector sum[kRows][kVectors];
    float const* row[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
    {
        row[i] = pass.rows[i];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
        {
            sum[i][j] = pass.first ? Vector{} : load(pass.sums + i * pass.sumsPitch + j * kLanes);
        }
    }
    for (uint64_t taps = pass.taps; taps != 0; taps &= taps - 1)
    {
        int const tap = __builtin_ctzll(taps);
        float const* weights = pass.weights + tap * pass.weightsOfTap;
        int64_t at = pass.tapOffset[tap] + pass.firstChannel;
        int64_t const end = at + pass.channels;
#pragma GCC unroll 1
        for (; at < end; ++at, weights += kWidth) // one step fills the pipes; more would not find registers
        {
#pragma GCC unroll 8
            for (int line = 0; line < (kWidth + 15) / 16; ++line)
            {
                __builtin_prefetch(ahead + line * 16, 0, 2);
            }
            ahead += pass.aheadStep;
            step<kRows, kVectors>(sum, row, at, weights);
        }
    }
    if (pass.epilogue != nullptr)
    {
        finish<kRows, kVectors>(sum, pass);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
    {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
        {
            store(pass.sums + i * pass.sumsPitch + j * kLanes, sum[i][j]);
        }
    }
}

//! The micro-kernel for `rows` rows and `vectors` vectors.
static TileFunction tileFunction(int rows, int vectors)
{
    static_assert(kTileRows == 6 || kTileRows == 8, "the table below");
    static constexpr TileFunction kOne[] = {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>,
#if LCCL_CPU_TILE_ROWS == 8
        tile<7, 1>, tile<8, 1>
#endif
    };
    static constexpr TileFunction kTwo[] = {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>,
#if LCCL_CPU_TILE_ROWS == 8
        tile<7, 2>, tile<8, 2>
#endif
    };
    return vectors == 1 ? kOne[rows - 1] : kTwo[rows - 1];
}

} // namespace LCCL_CPU_ISA
