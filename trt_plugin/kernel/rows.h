// Which output pixels are computed, and which only filled: the mask lives here, the main loops do not know of it.
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

//! The rows of a launch.
struct Work
{
    bool identity; //!< Every pixel is a row; else the rows are the pixels of the active cells.
    int32_t active;
    int32_t rows;
    int32_t inactiveRows; //!< Pixels that are only filled.
};

LCCL_DEVICE Work findWork(Arguments const& a)
{
    if (a.identityAbove < 0)
    {
        return {true, a.cells, a.pixels, 0};
    }
    int32_t const active = machine::loadConstant(a.activeCount);
    if (active > a.identityAbove)
    {
        return {true, active, a.pixels, 0};
    }
    int32_t const area = static_cast<int32_t>(a.byCellArea.divisor);
    return {false, active, active * area, (a.cells - active) * area};
}

LCCL_DEVICE Pixel pixelOfRow(Arguments const& a, Work const& work, int32_t row)
{
    if (work.identity)
    {
        return pixelOfIndex(a, row);
    }
    int32_t const place = a.byCellArea.quotient(row);
    return pixelOfCell(a, machine::loadConstant(a.cellList + place), a.byCellArea.remainder(row, place));
}

LCCL_DEVICE Pixel inactivePixel(Arguments const& a, int32_t row)
{
    int32_t const place = a.byCellArea.quotient(row);
    return pixelOfCell(a, machine::loadConstant(a.cellList + (a.cells - 1 - place)), a.byCellArea.remainder(row, place));
}

//! The rows of a tile, described once in shared memory for all threads.
template <int32_t kRows>
struct RowTable
{
    static constexpr int32_t kBytes = kRows * 20;

    uint32_t base;

    //! Which of the row's taps lie on x; none if the row is none.
    LCCL_DEVICE uint32_t taps(int32_t row) const
    {
        return machine::loadShared<uint32_t>(base + row * 4);
    }
    //! Image of the row.
    LCCL_DEVICE int32_t image(int32_t row) const
    {
        return machine::loadShared<int32_t>(base + kRows * 4 + row * 4);
    }
    //! Number in its image of the pixel under the row's first tap, h * width + w. On the padding it means nothing alone; added
    //! to a tap's distance it is right, modulo 2^32, for every tap that lies on x.
    LCCL_DEVICE uint32_t origin(int32_t row) const
    {
        return machine::loadShared<uint32_t>(base + kRows * 8 + row * 4);
    }
    //! Number of the row's pixel in y, (n * ho + row) * wo + column, or -1 if the row is none.
    LCCL_DEVICE int32_t pixel(int32_t row) const
    {
        return machine::loadShared<int32_t>(base + kRows * 12 + row * 4);
    }
    LCCL_DEVICE float gate(int32_t row) const
    {
        return machine::loadShared<float>(base + kRows * 16 + row * 4);
    }

    //! Called by every thread of the block; the caller synchronises before and after.
    LCCL_DEVICE void describe(Arguments const& a, Work const& work, int32_t firstRow, int32_t thread, int32_t threads) const
    {
        for (int32_t row = thread; row < kRows; row += threads)
        {
            uint32_t taps = 0;
            int32_t image = 0;
            uint32_t origin = 0;
            int32_t pixel = -1;
            float gate = 0.0F;
            Pixel const p = firstRow + row < work.rows ? pixelOfRow(a, work, firstRow + row) : Pixel{0, 0, 0, 0, false};
            if (p.valid)
            {
                int32_t const h = p.ho * a.strideH - a.padTop;
                int32_t const w = p.wo * a.strideW - a.padLeft;
                taps = tapsOnInput(h, w, a.h, a.w, a.dilationH, a.dilationW);
                image = p.n;
                origin = static_cast<uint32_t>(h) * static_cast<uint32_t>(a.w) + static_cast<uint32_t>(w);
                pixel = pixelIndex(a, p);
                gate = machine::loadConstant(a.cellGate + p.cell);
            }
            machine::storeShared(base + row * 4, taps);
            machine::storeShared(base + kRows * 4 + row * 4, image);
            machine::storeShared(base + kRows * 8 + row * 4, origin);
            machine::storeShared(base + kRows * 12 + row * 4, pixel);
            machine::storeShared(base + kRows * 16 + row * 4, gate);
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
