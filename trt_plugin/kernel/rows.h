// Decides which output pixels are computed and which are only filled; the main loops do not know of
// the gate.
#pragma once

#include "arguments.h"

namespace lccl
{

//! An output pixel and the cell of the gate map that it belongs to.
struct Pixel
{
    int32_t n;
    int32_t ho;
    int32_t wo;
    int32_t cell;
    bool valid; //!< False for the part of a border block that is not on the map.
};

LCCL_HOST_DEVICE Pixel pixelOfIndex(Arguments const& a, int32_t index)
{
    int32_t const line = a.byOutputWidth.quotient(index);
    int32_t const wo = a.byOutputWidth.remainder(index, line);
    int32_t const n = a.byOutputHeight.quotient(line);
    int32_t const ho = a.byOutputHeight.remainder(line, n);
    int32_t const cell = (n * a.hg + a.byGrid.quotient(ho)) * a.wg + a.byGrid.quotient(wo);
    return {n, ho, wo, cell, true};
}

//! Pixel `inner` (raster order, 0 to G * G - 1) of a cell.
LCCL_HOST_DEVICE Pixel pixelOfCell(Arguments const& a, int32_t cell, int32_t inner)
{
    int32_t const line = a.byGateWidth.quotient(cell);
    int32_t const wg = a.byGateWidth.remainder(cell, line);
    int32_t const n = a.byGateHeight.quotient(line);
    int32_t const hg = a.byGateHeight.remainder(line, n);
    int32_t const dh = a.byGrid.quotient(inner);
    int32_t const ho = hg * a.grid + dh;
    int32_t const wo = wg * a.grid + a.byGrid.remainder(inner, dh);
    return {n, ho, wo, cell, ho < a.ho && wo < a.wo};
}

LCCL_HOST_DEVICE int32_t pixelIndex(Arguments const& a, Pixel const& p)
{
    return (p.n * a.ho + p.ho) * a.wo + p.wo;
}

//! Offset of a pixel's channel 0 in y.
LCCL_HOST_DEVICE int64_t outputOffset(Arguments const& a, Pixel const& p)
{
    return p.n * a.yStrides.n + p.ho * a.yStrides.h + p.wo * a.yStrides.w;
}

//! How many cells are active before each segment, in shared memory.
struct SegmentTable
{
    static constexpr int32_t kBytes = kMaxSegments * 4;

    uint32_t base;

    LCCL_DEVICE int32_t operator()(int32_t segment) const
    {
        return machine::loadShared<int32_t>(base + segment * 4);
    }
};

//! The rows of a launch.
struct Work
{
    bool identity; //!< Every pixel is a row; else the rows are the pixels of the active cells.
    int32_t rows;
    int32_t inactiveCells; //!< Their pixels are only filled.
    SegmentTable segments; //!< Unless `identity`.
};

//! A sum over threads.
struct Scan
{
    int32_t before; //!< of the threads with a smaller number
    int32_t total;
};

//! \param scratch a word of shared memory for each warp; the caller synchronises before it is used
//! again
template <int32_t kThreads>
LCCL_DEVICE Scan scanOverBlock(int32_t value, int32_t thread, uint32_t scratch)
{
    int32_t const lane = thread % kWarpSize;
    int32_t sum = value;
    LCCL_UNROLL
    for (int32_t distance = 1; distance < kWarpSize; distance *= 2)
    {
        int32_t const other = machine::shuffle(sum, lane < distance ? lane : lane - distance);
        sum += lane < distance ? 0 : other;
    }
    if (lane == kWarpSize - 1)
    {
        machine::storeShared(scratch + thread / kWarpSize * 4, sum);
    }
    machine::syncThreads();
    Scan scan{sum - value, 0};
    LCCL_UNROLL
    for (int32_t warp = 0; warp < kThreads / kWarpSize; ++warp)
    {
        int32_t const count = machine::loadShared<int32_t>(scratch + warp * 4);
        scan.before += warp < thread / kWarpSize ? count : 0;
        scan.total += count;
    }
    return scan;
}

//! Called by every thread of the block. Synchronises; uses the first bytes of shared memory.
template <int32_t kThreads>
LCCL_DEVICE Work findWork(Arguments const& a, SegmentTable const& segments, int32_t thread)
{
    constexpr int32_t kOwn = kMaxSegments / kThreads;
    static_assert(kOwn * kThreads == kMaxSegments, "each thread adds up as many segments");
    if (a.identityAbove < 0)
    {
        return {true, a.pixels, 0, segments};
    }
    int32_t counts[kOwn];
    int32_t sum = 0;
    LCCL_UNROLL
    for (int32_t i = 0; i < kOwn; ++i)
    {
        int32_t const segment = thread * kOwn + i;
        counts[i] = segment < a.segments ? machine::loadConstant(a.segmentCounts + segment) : 0;
        sum += counts[i];
    }
    Scan const scan = scanOverBlock<kThreads>(sum, thread, machine::sharedBase());
    int32_t before = scan.before;
    LCCL_UNROLL
    for (int32_t i = 0; i < kOwn; ++i)
    {
        machine::storeShared(segments.base + (thread * kOwn + i) * 4, before);
        before += counts[i];
    }
    machine::syncThreads();
    if (scan.total > a.identityAbove)
    {
        return {true, a.pixels, 0, segments};
    }
    int32_t const area = static_cast<int32_t>(a.byCellArea.divisor);
    return {false, scan.total * area, a.cells - scan.total, segments};
}

LCCL_DEVICE Pixel pixelOfRow(Arguments const& a, Work const& work, int32_t row)
{
    if (work.identity)
    {
        return pixelOfIndex(a, row);
    }
    int32_t const rank = a.byCellArea.quotient(row);
    int32_t const place = placeOfActive(rank, a.segments, a.segmentCells, work.segments);
    return pixelOfCell(a, machine::loadConstant(a.cellList + place), a.byCellArea.remainder(row, rank));
}

//! The rows of a tile, described once in shared memory for all threads.
//! \tparam kImages whether the image of each row is kept, too
template <int32_t kRows, bool kImages = false>
struct RowTable
{
    static constexpr int32_t kBytes = kRows * (kImages ? 20 : 16);

    uint32_t base;

    //! Which of the row's taps lie on x; none if the row is none.
    LCCL_DEVICE uint32_t taps(int32_t row) const
    {
        return machine::loadShared<uint32_t>(base + row * 4);
    }
    //! Number of the pixel of x under the row's first tap, (image * height + h) * width + w. On the
    //! padding it means nothing alone; added to a tap's distance it is right, modulo 2^32, for
    //! every tap that lies on x.
    LCCL_DEVICE uint32_t origin(int32_t row) const
    {
        return machine::loadShared<uint32_t>(base + kRows * 4 + row * 4);
    }
    //! Number of the row's pixel in y, (n * ho + row) * wo + column, or -1 if the row is none.
    LCCL_DEVICE int32_t pixel(int32_t row) const
    {
        return machine::loadShared<int32_t>(base + kRows * 8 + row * 4);
    }
    LCCL_DEVICE float gate(int32_t row) const
    {
        return machine::loadShared<float>(base + kRows * 12 + row * 4);
    }
    LCCL_DEVICE int32_t image(int32_t row) const
    {
        static_assert(kImages, "images are not kept");
        return machine::loadShared<int32_t>(base + kRows * 16 + row * 4);
    }

    //! Called by every thread of the block; the caller synchronises before and after.
    LCCL_DEVICE void describe(Arguments const& a, Work const& work, int32_t firstRow, int32_t thread, int32_t threads) const
    {
        for (int32_t row = thread; row < kRows; row += threads)
        {
            uint32_t taps = 0;
            uint32_t origin = 0;
            int32_t pixel = -1;
            float gate = 0.0F;
            Pixel const p = firstRow + row < work.rows ? pixelOfRow(a, work, firstRow + row) : Pixel{0, 0, 0, 0, false};
            if (p.valid)
            {
                int32_t const h = p.ho * a.strideH - a.padTop;
                int32_t const w = p.wo * a.strideW - a.padLeft;
                taps = tapsOnInput(h, w, a.h, a.w, a.dilationH, a.dilationW);
                uint32_t const line = static_cast<uint32_t>(p.n) * static_cast<uint32_t>(a.h) + static_cast<uint32_t>(h);
                origin = line * static_cast<uint32_t>(a.w) + static_cast<uint32_t>(w);
                pixel = pixelIndex(a, p);
                gate = machine::loadConstant(a.cellGate + p.cell);
            }
            machine::storeShared(base + row * 4, taps);
            machine::storeShared(base + kRows * 4 + row * 4, origin);
            machine::storeShared(base + kRows * 8 + row * 4, pixel);
            machine::storeShared(base + kRows * 12 + row * 4, gate);
            if (kImages)
            {
                machine::storeShared(base + kRows * 16 + row * 4, p.n);
            }
        }
    }
};

//! Distance of a tap from the row's first, in pixels of x, modulo 2^32.
LCCL_HOST_DEVICE uint32_t tapDistance(Arguments const& a, Tap const& tap)
{
    return static_cast<uint32_t>(tap.r) * static_cast<uint32_t>(a.dilationH) * static_cast<uint32_t>(a.w)
        + static_cast<uint32_t>(tap.s) * static_cast<uint32_t>(a.dilationW);
}

} // namespace lccl
