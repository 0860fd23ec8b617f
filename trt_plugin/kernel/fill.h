// Fills inactive pixels, a slice at a time, while the block waits for the data of its next tile.
#pragma once

#include "epilogue.h"

namespace lccl
{

//! Whether inactive pixels hold their result already: y is the residual, and nothing is done to
//! that.
LCCL_DEVICE bool inactiveIsDone(Arguments const& a)
{
    return a.residual == a.y && a.postAlpha == 1.0F && a.outputChannels == a.k && a.postBiasStep == 0
        && (a.postBias == nullptr || machine::loadConstant(a.postBias) == 0.0F);
}

//! 16 bytes of elements as floats and back.
template <typename T>
struct Vector
{
    static constexpr int32_t kElements = 16 / static_cast<int32_t>(sizeof(T));

    float value[kElements];

    LCCL_DEVICE void unpack(Vec16 const& packed)
    {
        LCCL_UNROLL
        for (int32_t e = 0; e < kElements; ++e)
        {
            if constexpr (sizeof(T) == 4)
            {
                value[e] = machine::floatFromBits(packed.word[e]);
            }
            else
            {
                value[e] = machine::toFloat(element<T>(packed, e));
            }
        }
    }

    LCCL_DEVICE Vec16 packed() const
    {
        if constexpr (sizeof(T) == 4)
        {
            Vec16 four;
            LCCL_UNROLL
            for (int32_t e = 0; e < kElements; ++e)
            {
                four.word[e] = machine::bitsOfFloat(value[e]);
            }
            return four;
        }
        else
        {
            return packEight<T>(value);
        }
    }
};

//! The pixels of a launch's inactive cells, cut into lines: a line is a row of a cell, G pixels
//! side by side. A warp takes up to 32 lines at a time: each lane finds one, then all lanes write
//! them together.
template <typename T, int32_t kThreads>
struct Fill
{
    static constexpr int32_t kWarps = kThreads / kWarpSize;

    //! Where a line's pixels are in y, and how many are on the map.
    struct Line
    {
        int32_t pixel;
        int32_t count;
    };

    //! Writes part `part` of `parts` of the block's share. Called by every thread of the block; no
    //! barrier, no shared memory but the segments' table.
    static LCCL_DEVICE void slice(Arguments const& a, Work const& work, int32_t part, int32_t parts, int32_t thread)
    {
        int32_t const lines = work.inactiveCells * a.grid;
        if (lines == 0 || inactiveIsDone(a))
        {
            return;
        }
        int32_t const warps = machine::gridSize() * kWarps;
        int32_t const atOnce = smaller(kWarpSize, ceilDivide(lines, warps));
        int32_t const rounds = ceilDivide(ceilDivide(lines, atOnce), warps);
        // The first parts get the larger shares: what is left for the end is not hidden by
        // anything.
        int32_t const end = rounds - splitBegin(rounds, parts - 1 - part, parts);
        for (int32_t round = rounds - splitBegin(rounds, parts - part, parts); round < end; ++round)
        {
            int64_t const number = static_cast<int64_t>(round) * warps + machine::blockIndex() * kWarps + thread / kWarpSize;
            int64_t const first = number * atOnce;
            if (first < lines)
            {
                int32_t const count = smaller(atOnce, lines - static_cast<int32_t>(first));
                int32_t const lane = thread % kWarpSize;
                Line const own = lane < count ? lineOf(a, work, static_cast<int32_t>(first) + lane) : Line{0, 0};
                if (sizeof(T) == 2 || (a.yStrides.channel == 1 && a.outputChannels % Vector<T>::kElements == 0))
                {
                    writePixels(a, own, count, lane);
                }
                else
                {
                    writePlanes(a, own, count, lane);
                }
            }
        }
    }

private:
    //! Lines of all inactive cells are counted through, G for each cell.
    static LCCL_DEVICE Line lineOf(Arguments const& a, Work const& work, int32_t number)
    {
        int32_t const rank = a.byGrid.quotient(number);
        int32_t const place = placeOfInactive(rank, a.segments, a.segmentCells, a.cells, work.segments);
        int32_t const cell = machine::loadConstant(a.cellList + place);
        Pixel const p = pixelOfCell(a, cell, a.byGrid.remainder(number, rank) * a.grid);
        return p.valid ? Line{pixelIndex(a, p), smaller(a.grid, a.wo - p.wo)} : Line{0, 0};
    }

    //! Channels lie together: `fillLanes` lanes write those of a pixel, 16 bytes each, a batch of
    //! pixels at a time: of as many lines where a line is one pixel, else of one line.
    static LCCL_DEVICE void writePixels(Arguments const& a, Line const& own, int32_t lines, int32_t lane)
    {
        constexpr int32_t kElements = Vector<T>::kElements;
        int32_t const groups = kWarpSize / a.fillLanes;
        int32_t const lineStep = a.grid == 1 ? groups : 0;
        int32_t const pixelStep = a.grid == 1 ? 0 : 1;
        for (int32_t firstChannel = 0; firstChannel < a.outputChannels; firstChannel += a.fillLanes * kElements)
        {
            int32_t const channel = firstChannel + lane % a.fillLanes * kElements;
            Vector<T> const closed = closedChannels(a, channel);
            Vec16 const constant = closed.packed();
            int32_t const linesHere = channel < a.outputChannels ? lines : 0;
            int32_t begin = 0;
            int32_t inLine = 0;
            while (begin < lines)
            {
                int32_t pixels[kBatch];
                LCCL_UNROLL
                for (int32_t i = 0; i < kBatch; ++i)
                {
                    int32_t const line = begin + i * lineStep + lane / a.fillLanes;
                    int32_t const pixel = machine::shuffle(own.pixel, line & (kWarpSize - 1));
                    int32_t const count = machine::shuffle(own.count, line & (kWarpSize - 1));
                    pixels[i] = line < linesHere && inLine + i * pixelStep < count ? pixel + inLine + i * pixelStep : -1;
                }
                writeBatch(a, closed, constant, channel, pixels);
                inLine += kBatch * pixelStep;
                bool const isNext = inLine >= a.grid || a.grid == 1;
                inLine = isNext ? 0 : inLine;
                begin += isNext ? (a.grid == 1 ? kBatch * groups : groups) : 0;
            }
        }
    }

    //! Pixels, or loads of the residual, that are under way together.
    static constexpr int32_t kBatch = 4;

    //! Offset in y of a pixel's channel; y may have more than 2^31 elements.
    static LCCL_DEVICE uint64_t offsetOf(Arguments const& a, int32_t pixel, int32_t channel)
    {
        return static_cast<uint64_t>(static_cast<uint32_t>(pixel)) * static_cast<uint32_t>(a.outputChannels)
            + static_cast<uint32_t>(channel);
    }

    //! \param pixels of y; -1: none
    static LCCL_DEVICE void writeBatch(
        Arguments const& a, Vector<T> const& closed, Vec16 const& constant, int32_t channel, int32_t const (&pixels)[kBatch])
    {
        if (a.residual == nullptr)
        {
            LCCL_UNROLL
            for (int32_t i = 0; i < kBatch; ++i)
            {
                if (pixels[i] >= 0)
                {
                    machine::storeGlobal(
                        reinterpret_cast<Vec16*>(static_cast<T*>(a.y) + offsetOf(a, pixels[i], channel)), constant);
                }
            }
            return;
        }
        Vec16 values[kBatch];
        LCCL_UNROLL
        for (int32_t i = 0; i < kBatch; ++i)
        {
            values[i] = constant;
            if (pixels[i] >= 0)
            {
                T const* const residual = static_cast<T const*>(a.residual) + offsetOf(a, pixels[i], channel);
                values[i] = machine::loadOwned(reinterpret_cast<Vec16 const*>(residual));
            }
        }
        LCCL_UNROLL
        for (int32_t i = 0; i < kBatch; ++i)
        {
            Vector<T> sum;
            sum.unpack(values[i]);
            LCCL_UNROLL
            for (int32_t e = 0; e < Vector<T>::kElements; ++e)
            {
                sum.value[e] = channel + e < a.k ? leaky(closed.value[e] + sum.value[e], a.postAlpha) : 0.0F;
            }
            if (pixels[i] >= 0)
            {
                machine::storeGlobal(
                    reinterpret_cast<Vec16*>(static_cast<T*>(a.y) + offsetOf(a, pixels[i], channel)), sum.packed());
            }
        }
    }

    //! y before the residual, of the channels from `channel` on.
    static LCCL_DEVICE Vector<T> closedChannels(Arguments const& a, int32_t channel)
    {
        Vector<T> closed;
        LCCL_UNROLL
        for (int32_t e = 0; e < Vector<T>::kElements; ++e)
        {
            bool const isReal = channel + e < a.k;
            float const value = isReal ? closedValue(loadChannel(a, channel + e)) : 0.0F;
            closed.value[e] = a.residual == nullptr ? leaky(value, a.postAlpha) : value;
        }
        return closed;
    }

    //! Channels lie in planes: neighbouring lanes write neighbouring pixels of one.
    static LCCL_DEVICE void writePlanes(Arguments const& a, Line const& own, int32_t lines, int32_t lane)
    {
        int32_t const pixels = lines * a.grid;
        for (int32_t begin = 0; begin < pixels; begin += kWarpSize)
        {
            int32_t const line = a.byGrid.quotient(begin + lane);
            int32_t const inLine = a.byGrid.remainder(begin + lane, line);
            int32_t const first = machine::shuffle(own.pixel, line & (kWarpSize - 1));
            int32_t const count = machine::shuffle(own.count, line & (kWarpSize - 1));
            if (line >= lines || inLine >= count)
            {
                continue;
            }
            int32_t const pixel = first + inLine;
            int64_t const offset = outputOffset(a, pixelOfIndex(a, pixel));
            for (int32_t k = 0; k < a.outputChannels; ++k)
            {
                storeElement<T>(a, offset, k, 0.0F, 0.0F);
            }
        }
    }
};

} // namespace lccl
