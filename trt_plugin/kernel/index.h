// Every index that the kernels compute, for host and device, without state or memory access.
#pragma once

#include "machine.h"

namespace lccl
{

//! Bytes of a row of 64 16-bit elements: one row of a tile in shared memory.
constexpr int32_t kRowBytes = 128;
//! 16-byte chunks in such a row, of eight elements each.
constexpr int32_t kRowChunks = 8;
constexpr int32_t kChunkElements = 8;
//! Steps of 16 elements that one mma takes from such a row.
constexpr int32_t kRowSteps = 4;

LCCL_HOST_DEVICE constexpr int32_t ceilDivide(int32_t value, int32_t by)
{
    return value / by + (value % by != 0 ? 1 : 0);
}

LCCL_HOST_DEVICE constexpr int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

//! Division by a number that is known on the host: a multiplication on the device. It is exact for
//! n from 0 to 2^31 - 1.
struct FastDivisor
{
    uint32_t divisor;
    uint32_t multiplier;
    uint32_t shift;

    LCCL_HOST_DEVICE int32_t quotient(int32_t n) const
    {
        uint64_t const product = static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier;
        uint32_t const high = static_cast<uint32_t>(product >> 32) >> shift;
        return divisor == 1 ? n : static_cast<int32_t>(high);
    }

    LCCL_HOST_DEVICE int32_t remainder(int32_t n, int32_t quotientOfN) const
    {
        return n - quotientOfN * static_cast<int32_t>(divisor);
    }
};

//! For 1 <= divisor < 2^31: multiplier = ceil(2^(31 + l) / divisor) with l = ceil(log2(divisor)).
inline FastDivisor makeFastDivisor(int32_t divisor)
{
    uint32_t log = 0;
    while ((uint64_t{1} << log) < static_cast<uint64_t>(divisor))
    {
        ++log;
    }
    if (divisor <= 1)
    {
        return {1, 0, 0};
    }
    uint64_t const d = static_cast<uint64_t>(divisor);
    uint64_t const multiplier = ((uint64_t{1} << (31 + log)) + d - 1) / d;
    return {static_cast<uint32_t>(divisor), static_cast<uint32_t>(multiplier), log - 1};
}

// ---- tiles in shared memory --------------------------------------------------------------------

//! Offset of a 16-byte chunk in a tile of 128-byte rows. The chunk is exclusive-ored with the row,
//! so that eight rows at the same chunk (an ldmatrix) and eight chunks of a row (a copy) both touch
//! all 32 banks.
LCCL_HOST_DEVICE constexpr uint32_t swizzled(int32_t row, int32_t chunk)
{
    return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row & 7)) << 4));
}

//! A row and a chunk of it, which a lane names for ldmatrix.
struct TilePlace
{
    int32_t row;
    int32_t chunk;
};

//! The lane's place for the A fragment of 16 rows from `row`, step `step`: matrices (rows 0-7, k
//! 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
LCCL_HOST_DEVICE constexpr TilePlace fragmentA(int32_t lane, int32_t row, int32_t step)
{
    return {row + (lane & 15), (step * 2) ^ (lane >> 4)};
}

//! The lane's place for two B fragments, of columns `column` to +7 (registers 0, 1) and +8 to +15
//! (registers 2, 3). B lies as rows of its columns.
LCCL_HOST_DEVICE constexpr TilePlace fragmentB(int32_t lane, int32_t column, int32_t step)
{
    return {column + (lane & 7) + ((lane >> 4) << 3), (step * 2) ^ ((lane >> 3) & 1)};
}

//! Row of the lane's accumulators 0 and 1 in a 16x8 product; accumulators 2 and 3 are eight rows
//! below.
LCCL_HOST_DEVICE constexpr int32_t accumulatorRow(int32_t lane)
{
    return lane >> 2;
}

//! Column of the lane's accumulators 0 and 2; 1 and 3 are one to the right.
LCCL_HOST_DEVICE constexpr int32_t accumulatorColumn(int32_t lane)
{
    return (lane & 3) * 2;
}

// ---- the reduction -----------------------------------------------------------------------------

//! A step of the reduction over taps and channels.
struct Tap
{
    int32_t r;
    int32_t s;
    int32_t channel; //!< In units of the divisor that decoded it: chunks or elements.
};

//! Step `index` of a reduction ordered (r, s, channel).
LCCL_HOST_DEVICE Tap decodeTap(int32_t index, FastDivisor const& byChannels, FastDivisor const& byKernelWidth)
{
    int32_t const tap = byChannels.quotient(index);
    int32_t const r = byKernelWidth.quotient(tap);
    return {r, byKernelWidth.remainder(tap, r), byChannels.remainder(index, tap)};
}

//! Whether a place lies on x and not on its padding.
LCCL_HOST_DEVICE constexpr bool onInput(int32_t h, int32_t w, int32_t height, int32_t width)
{
    return static_cast<uint32_t>(h) < static_cast<uint32_t>(height) && static_cast<uint32_t>(w) < static_cast<uint32_t>(width);
}

constexpr int32_t kMaxKernel = 7;
constexpr int32_t kTapColumns = 8;

//! Which taps of a row of the GEMM lie on x: bit r for each line of the kernel, bit 8 + s for each
//! column.
LCCL_HOST_DEVICE constexpr uint32_t tapsOnInput(
    int32_t h, int32_t w, int32_t height, int32_t width, int32_t dilationH, int32_t dilationW)
{
    uint32_t bits = 0;
    for (int32_t i = 0; i < kMaxKernel; ++i)
    {
        bits |= onInput(h + i * dilationH, 0, height, 1) ? 1U << i : 0U;
        bits |= onInput(0, w + i * dilationW, 1, width) ? 1U << (kTapColumns + i) : 0U;
    }
    return bits;
}

LCCL_HOST_DEVICE constexpr bool tapIsOnInput(uint32_t bits, Tap const& tap)
{
    return ((bits >> tap.r) & (bits >> (kTapColumns + tap.s)) & 1U) != 0;
}

//! Part `part` of `parts` of the steps 0 to steps - 1; never empty while parts <= steps.
LCCL_HOST_DEVICE constexpr int32_t splitBegin(int32_t steps, int32_t part, int32_t parts)
{
    return static_cast<int32_t>(static_cast<int64_t>(steps) * part / parts);
}

// ---- the work of a grid of blocks --------------------------------------------------------------

//! How the tiles of a launch are spread over its blocks.
struct Schedule
{
    int32_t tilesN;
    int32_t splits; //!< Blocks that share a tile, each a part of the reduction.
    int32_t units;  //!< tiles * splits.
};

constexpr int32_t kMaxSplits = 16;
//! A part of fewer steps than this does not pay for its partial sums.
constexpr int32_t kMinSplitSteps = 3;

//! Whether blocks may share a tile of this size: larger ones are for layers that fill the device
//! without, and adding up their parts would need more registers than there are.
LCCL_HOST_DEVICE constexpr bool tileSplits(int32_t tileRows, int32_t tileColumns)
{
    return tileRows * tileColumns <= 128 * 128;
}

//! With splits, there are no more units than blocks: each block has one, and one slot for its
//! partial sums.
LCCL_HOST_DEVICE Schedule makeSchedule(
    int32_t rows, int32_t tileRows, int32_t tilesN, int32_t steps, int32_t blocks, int32_t maxSplits)
{
    int32_t const tiles = ceilDivide(rows, tileRows) * tilesN;
    int32_t splits = 1;
    if (tiles > 0 && tiles * 2 <= blocks)
    {
        splits = smaller(smaller(blocks / tiles, steps / kMinSplitSteps), maxSplits);
        splits = splits < 1 ? 1 : splits;
    }
    return {tilesN, splits, tiles * splits};
}

//! Units that the block of this number takes of a launch's.
LCCL_HOST_DEVICE constexpr int32_t unitsOf(int32_t block, int32_t blocks, int32_t units)
{
    return block < units ? (units - 1 - block) / blocks + 1 : 0;
}

//! One block's share of a tile.
struct Unit
{
    int32_t tile;
    int32_t tileM;
    int32_t tileN;
    int32_t split;
};

//! Tiles that share rows are neighbours, so that blocks that run together read the same part of x.
LCCL_HOST_DEVICE Unit decodeUnit(int32_t unit, Schedule const& schedule)
{
    int32_t const tile = unit / schedule.splits;
    int32_t const tileM = tile / schedule.tilesN;
    return {tile, tileM, tile - tileM * schedule.tilesN, unit - tile * schedule.splits};
}

// ---- segments and their lists ------------------------------------------------------------------
//
// The cells of a gate map are cut into segments, one for each block of the gate kernel. A segment
// lists its own cells, active ones from the front and inactive ones from the back, both in
// ascending order, so that no block waits for another. The main kernel adds up the segments' counts
// and finds a cell by its rank among all active or all inactive ones.

//! Segments at most: as many counts are kept in a block's shared memory.
constexpr int32_t kMaxSegments = 256;

//! Place of a cell in the list.
//! \param first, end cells of its segment
//! \param activeBefore active cells of the segment with a smaller number
LCCL_HOST_DEVICE constexpr int32_t listPlace(int32_t cell, int32_t first, int32_t end, int32_t activeBefore, bool active)
{
    return active ? first + activeBefore : end - 1 - (cell - first - activeBefore);
}

//! The last segment before which `before` counts at most `rank` cells.
//! \param before(segment) ascending, 0 for segment 0
template <typename Before>
LCCL_HOST_DEVICE int32_t segmentOfRank(int32_t rank, int32_t segments, Before const& before)
{
    int32_t found = 0;
    for (int32_t step = kMaxSegments / 2; step > 0; step /= 2)
    {
        int32_t const next = found + step;
        found = next < segments && before(next) <= rank ? next : found;
    }
    return found;
}

//! Place in the list of the cell of rank `rank` among all active cells.
//! \param activeBefore(segment) active cells in all segments before it
template <typename ActiveBefore>
LCCL_HOST_DEVICE int32_t placeOfActive(int32_t rank, int32_t segments, int32_t segmentCells, ActiveBefore const& activeBefore)
{
    int32_t const segment = segmentOfRank(rank, segments, activeBefore);
    return segment * segmentCells + rank - activeBefore(segment);
}

//! The same among all inactive cells.
template <typename ActiveBefore>
LCCL_HOST_DEVICE int32_t placeOfInactive(
    int32_t rank, int32_t segments, int32_t segmentCells, int32_t cells, ActiveBefore const& activeBefore)
{
    auto const inactiveBefore = [&](int32_t segment) { return segment * segmentCells - activeBefore(segment); };
    int32_t const segment = segmentOfRank(rank, segments, inactiveBefore);
    return smaller((segment + 1) * segmentCells, cells) - 1 - (rank - inactiveBefore(segment));
}

// ---- simulated gates ---------------------------------------------------------------------------

//! A number in [0, 1) for each cell, shared by 4 x 4 pixels (gates close areas) or by a block of a
//! grid gate. About a share d of the cells lie below d.
//! \param line row of the gate map, counted through all images
LCCL_HOST_DEVICE constexpr float simulatedShare(int32_t line, int32_t column, int32_t grid)
{
    int32_t const shift = grid > 1 ? 0 : 2;
    uint32_t hash = static_cast<uint32_t>(line >> shift) * 0x9e3779b1U + static_cast<uint32_t>(column >> shift) * 0x85ebca77U;
    hash = (hash ^ (hash >> 15)) * 0x2c1b3c6dU;
    hash = (hash ^ (hash >> 12)) * 0x297a2d39U;
    hash ^= hash >> 15;
    return static_cast<float>(hash >> 8) * (1.0F / 16777216.0F);
}

} // namespace lccl
