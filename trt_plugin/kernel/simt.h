// The SIMT kernel: the same rows and the same results as the tensor-core kernel on CUDA cores, for
// float32.
#pragma once

#include "fill.h"

namespace lccl
{

//! y[rows, k] in tiles of 64 x 64 x 16, four by four results per thread, float32 arithmetic, any
//! layout.
struct SimtGemm
{
    static constexpr int32_t kTileM = 64;
    static constexpr int32_t kTileN = 64;
    static constexpr int32_t kTileK = 16;
    static constexpr int32_t kStages = 1;
    static constexpr int32_t kWarpsM = 4;
    static constexpr int32_t kWarpsN = 2;
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kBlocksPerSm = 2;

    //! Floats in a row of a tile; one more than its columns, against bank conflicts.
    static constexpr int32_t kPitch = kTileK + 1;
    static constexpr int32_t kTileBytes = kTileM * kPitch * 4;
    using Table = RowTable<kTileM, true>;
    static constexpr int32_t kSharedBytes = 2 * kTileBytes + Table::kBytes + SegmentTable::kBytes;

    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        Work const work = findWork<kThreads>(a, {machine::sharedBase() + 2 * kTileBytes + Table::kBytes}, thread);
        int32_t const steps = ceilDivide(a.r * a.s * a.c, kTileK);
        int32_t const tilesN = ceilDivide(a.outputChannels, kTileN);
        Schedule const schedule = makeSchedule(work.rows, kTileM, tilesN, steps, machine::gridSize(), 1);
        int32_t const units = unitsOf(machine::blockIndex(), machine::gridSize(), schedule.units);
        int32_t const slices = units > 0 ? units : 1;
        for (int32_t i = 0; i < slices; ++i)
        {
            Fill<float, kThreads>::slice(a, work, i, slices, thread);
            if (i == units)
            {
                return;
            }
            int32_t const number = machine::blockIndex() + i * machine::gridSize();
            Unit const unit = decodeUnit(number, schedule);
            table().describe(a, work, unit.tileM * kTileM, thread, kThreads);
            machine::syncThreads();
            float acc[4][4] = {};
            for (int32_t step = 0; step < steps; ++step)
            {
                loadStep(a, unit.tileN * kTileN, step, thread);
                machine::syncThreads();
                multiply(acc, thread);
                machine::syncThreads();
            }
            writeTile(a, acc, unit.tileN * kTileN, thread);
            machine::syncThreads();
        }
    }

private:
    static LCCL_DEVICE Table table()
    {
        return {machine::sharedBase() + 2 * kTileBytes};
    }

    static LCCL_DEVICE uint32_t placeA(int32_t row, int32_t k)
    {
        return machine::sharedBase() + (row * kPitch + k) * 4;
    }

    static LCCL_DEVICE uint32_t placeB(int32_t column, int32_t k)
    {
        return placeA(column, k) + kTileBytes;
    }

    //! 16 elements of every row of x and of weight, as floats. Padding is zero and is not read.
    static LCCL_DEVICE void loadStep(Arguments const& a, int32_t firstColumn, int32_t step, int32_t thread)
    {
        int32_t const depth = a.r * a.s * a.c;
        int32_t const k = thread % kTileK;
        int32_t const index = step * kTileK + k;
        Tap const tap = decodeTap(index, a.byChannels, a.byKernelWidth);
        uint32_t const distance = tapDistance(a, tap);
        for (int32_t row = thread / kTileK; row < kTileM; row += kThreads / kTileK)
        {
            float x = 0.0F;
            if (index < depth && tapIsOnInput(table().taps(row), tap))
            {
                // In NHWC images follow each other as pixels do, in NCHW their channels lie
                // between.
                int64_t const pixel = static_cast<int64_t>(table().origin(row) + distance);
                int64_t const others = table().image(row) * (a.xStrides.n - a.xStrides.w * a.h * a.w);
                int64_t const offset = others + pixel * a.xStrides.w + tap.channel * a.xStrides.channel;
                x = machine::loadConstant(static_cast<float const*>(a.x) + offset);
            }
            machine::storeShared(placeA(row, k), x);

            int32_t const column = firstColumn + row;
            float weight = 0.0F;
            if (index < depth && column < a.k)
            {
                weight = machine::loadConstant(
                    static_cast<float const*>(a.weight) + static_cast<int64_t>(column) * depth + index);
            }
            machine::storeShared(placeB(row, k), weight);
        }
    }

    static LCCL_DEVICE void multiply(float (&acc)[4][4], int32_t thread)
    {
        LCCL_UNROLL
        for (int32_t k = 0; k < kTileK; ++k)
        {
            float x[4];
            float weight[4];
            LCCL_UNROLL
            for (int32_t i = 0; i < 4; ++i)
            {
                x[i] = machine::loadShared<float>(placeA(thread / 16 + i * 16, k));
                weight[i] = machine::loadShared<float>(placeB(thread % 16 + i * 16, k));
            }
            LCCL_UNROLL
            for (int32_t i = 0; i < 4; ++i)
            {
                LCCL_UNROLL
                for (int32_t j = 0; j < 4; ++j)
                {
                    acc[i][j] += x[i] * weight[j];
                }
            }
        }
    }

    static LCCL_DEVICE void writeTile(Arguments const& a, float const (&acc)[4][4], int32_t firstColumn, int32_t thread)
    {
        LCCL_UNROLL
        for (int32_t i = 0; i < 4; ++i)
        {
            int32_t const row = thread / 16 + i * 16;
            int32_t const pixel = table().pixel(row);
            if (pixel < 0)
            {
                continue;
            }
            int64_t const offset = outputOffset(a, pixelOfIndex(a, pixel));
            LCCL_UNROLL
            for (int32_t j = 0; j < 4; ++j)
            {
                int32_t const column = firstColumn + thread % 16 + j * 16;
                if (column < a.outputChannels)
                {
                    storeElement<float>(a, offset, column, acc[i][j], table().gate(row));
                }
            }
        }
    }
};

} // namespace lccl
