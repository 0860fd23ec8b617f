// The tensor-core kernel: an implicit GEMM over the rows that rows.h lists, by mma.sync and
// cp.async.
#pragma once

#include "fill.h"

namespace lccl
{

//! y[rows, k] = rows of x (im2col, gathered) * weight, tiles of kTileM x kTileN x 64, kStages of
//! them in flight.
template <typename T_, int32_t kTileM_, int32_t kTileN_, int32_t kStages_, int32_t kWarpsM_, int32_t kWarpsN_,
    int32_t kBlocksPerSm_>
struct GatedGemm
{
    using T = T_;
    static constexpr int32_t kTileM = kTileM_;
    static constexpr int32_t kTileN = kTileN_;
    static constexpr int32_t kTileK = kRowBytes / 2;
    static constexpr int32_t kStages = kStages_;
    static constexpr int32_t kWarpsM = kWarpsM_;
    static constexpr int32_t kWarpsN = kWarpsN_;
    static constexpr int32_t kThreads = kWarpsM * kWarpsN * kWarpSize;
    static constexpr int32_t kBlocksPerSm = kBlocksPerSm_;

    static constexpr int32_t kWarpRows = kTileM / kWarpsM;
    static constexpr int32_t kWarpColumns = kTileN / kWarpsN;
    static constexpr bool kSplits = tileSplits(kTileM, kTileN);
    static constexpr int32_t kFragmentsM = kWarpRows / 16;
    static constexpr int32_t kFragmentsN = kWarpColumns / 8;

    static constexpr int32_t kStageBytes = (kTileM + kTileN) * kRowBytes;
    static constexpr int32_t kTableBytes = RowTable<kTileM>::kBytes;
    static constexpr int32_t kSharedBytes = kStages * kStageBytes + kTableBytes + SegmentTable::kBytes;

    //! Rows of a tile that one pass of all threads copies: eight threads per row, 16 bytes each.
    static constexpr int32_t kCopyRows = kThreads / kRowChunks;
    static constexpr int32_t kCopiesA = kTileM / kCopyRows;
    static constexpr int32_t kCopiesB = kTileN / kCopyRows;

    //! Floats in a row of a warp's staging area; eight more than its columns, so that neighbouring
    //! rows use other banks.
    static constexpr int32_t kStagingPitch = kWarpColumns + 8;
    static constexpr int32_t kStagingBytes = 16 * kStagingPitch * 4;

    static_assert(kWarpRows % 16 == 0 && kWarpColumns % 16 == 0, "fragments of B are loaded in pairs");
    static_assert(kCopyRows % 8 == 0, "a thread's rows must share their swizzle");
    static_assert(kTileM % kCopyRows == 0 && kTileN % kCopyRows == 0, "passes copy whole tiles");
    static_assert(kStages >= 2, "one stage is read while the next is written");
    //! Constants of the tile's channels lie behind the staging areas, as [bias, scale,
    //! shift][column].
    static constexpr int32_t kChannelsOffset = kThreads / kWarpSize * kStagingBytes;
    static_assert(kChannelsOffset + 3 * kTileN * 4 <= kStages * kStageBytes, "the results are staged where the tiles lay");

    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        Work const work = findWork<kThreads>(a, {machine::sharedBase() + kStages * kStageBytes + kTableBytes}, thread);
        int32_t const steps = ceilDivide(a.r * a.s * a.channelChunks, kRowChunks);
        int32_t const tilesN = ceilDivide(a.outputChannels, kTileN);
        Schedule const schedule = makeSchedule(work.rows, kTileM, tilesN, steps, machine::gridSize(), a.maxSplits);
        int32_t const units = unitsOf(machine::blockIndex(), machine::gridSize(), schedule.units);
        int32_t const slices = units > 0 ? units : 1;
        LCCL_NO_UNROLL
        for (int32_t i = 0; i < slices; ++i)
        {
            bool const multiplies = i < units; // a block without a unit only fills
            Unit const unit = decodeUnit(machine::blockIndex() + i * machine::gridSize(), schedule);
            int32_t const firstColumn = unit.tileN * kTileN;
            Range const range{
                splitBegin(steps, unit.split, schedule.splits), splitBegin(steps, unit.split + 1, schedule.splits)};
            Copier copier;
            if (multiplies)
            {
                table().describe(a, work, unit.tileM * kTileM, thread, kThreads);
                machine::syncThreads();
                copier = makeCopier(thread);
                startCopies(a, copier, firstColumn, range);
            }
            Fill<T, kThreads>::slice(a, work, i, slices, thread); // while the first copies are under way
            if (multiplies)
            {
                Accumulators acc = {};
                multiply(a, acc, copier, firstColumn, range, thread);
                bool complete = true;
                if constexpr (kSplits)
                {
                    complete = schedule.splits == 1 || joinSplits(a, acc, unit, schedule.splits, thread);
                }
                if (complete)
                {
                    writeTile(a, acc, firstColumn, thread);
                }
                machine::syncThreads();
            }
        }
    }

private:
    //! Steps begin to end - 1 of the reduction.
    struct Range
    {
        int32_t begin;
        int32_t end;
    };

    struct Accumulators
    {
        float value[kFragmentsM][kFragmentsN][4];
    };

    static LCCL_DEVICE RowTable<kTileM> table()
    {
        return {machine::sharedBase() + kStages * kStageBytes};
    }

    static LCCL_DEVICE uint32_t stageA(int32_t stage)
    {
        return machine::sharedBase() + stage * kStageBytes;
    }

    static LCCL_DEVICE uint32_t stageB(int32_t stage)
    {
        return stageA(stage) + kTileM * kRowBytes;
    }

    //! The share of a thread in the copies: chunk `chunk` of rows row, row + kCopyRows, ... of both
    //! tiles.
    struct Copier
    {
        int32_t row;
        int32_t chunk;
        uint32_t pixel[kCopiesA]; //!< Number in x of the pixel under the first tap.
        uint32_t taps[kCopiesA];
    };

    static LCCL_DEVICE Copier makeCopier(int32_t thread)
    {
        Copier copier;
        copier.row = thread / kRowChunks;
        copier.chunk = thread % kRowChunks;
        LCCL_UNROLL
        for (int32_t i = 0; i < kCopiesA; ++i)
        {
            int32_t const row = copier.row + i * kCopyRows;
            copier.pixel[i] = table().origin(row);
            copier.taps[i] = table().taps(row);
        }
        return copier;
    }

    //! Starts the copies of one step of the reduction: 64 elements of every row of x and of weight.
    static LCCL_DEVICE void copyStep(Arguments const& a, Copier const& copier, int32_t firstColumn, int32_t step, int32_t stage)
    {
        int32_t const index = step * kRowChunks + copier.chunk;
        int32_t const chunks = a.r * a.s * a.channelChunks;
        bool const inside = index < chunks;
        Tap const tap = decodeTap(index, a.byChannelChunks, a.byKernelWidth);
        int32_t const bytes = tap.channel == a.channelChunks - 1 ? a.lastChunkBytes : 16;
        uint32_t const distance = tapDistance(a, tap);
        T const* const x = static_cast<T const*>(a.x) + tap.channel * kChunkElements;
        LCCL_UNROLL
        for (int32_t i = 0; i < kCopiesA; ++i)
        {
            bool const read = inside && tapIsOnInput(copier.taps[i], tap);
            uint32_t const pixel = read ? copier.pixel[i] + distance : 0;
            machine::cpAsyncCa16(stageA(stage) + swizzled(copier.row + i * kCopyRows, copier.chunk),
                x + static_cast<int64_t>(pixel) * a.inputPitch, read ? bytes : 0);
        }
        T const* const weight = static_cast<T const*>(a.packedWeight == nullptr ? a.weight : a.packedWeight);
        LCCL_UNROLL
        for (int32_t i = 0; i < kCopiesB; ++i)
        {
            int32_t const column = firstColumn + copier.row + i * kCopyRows;
            bool const read = inside && column < a.k;
            int64_t const element = (static_cast<int64_t>(column) * chunks + index) * kChunkElements;
            machine::cpAsyncCg16(stageB(stage) + swizzled(copier.row + i * kCopyRows, copier.chunk),
                read ? weight + element : weight, read ? 16 : 0);
        }
    }

    //! Fragments of B are loaded ahead, as those of A are, only where the accumulators leave
    //! registers for it.
    static constexpr bool kAheadB = kFragmentsM * kFragmentsN <= 16;

    struct FragmentsA
    {
        uint32_t value[kFragmentsM][4];
    };
    struct FragmentsB
    {
        uint32_t value[kFragmentsN / 2][4];
    };

    static LCCL_DEVICE void loadA(FragmentsA& fragments, int32_t stage, int32_t innerStep, int32_t thread)
    {
        int32_t const firstRow = thread / kWarpSize / kWarpsN * kWarpRows;
        LCCL_UNROLL
        for (int32_t i = 0; i < kFragmentsM; ++i)
        {
            TilePlace const place = fragmentA(thread % kWarpSize, firstRow + i * 16, innerStep);
            machine::ldmatrixX4(fragments.value[i], stageA(stage) + swizzled(place.row, place.chunk));
        }
    }

    static LCCL_DEVICE void loadB(FragmentsB& fragments, int32_t stage, int32_t innerStep, int32_t thread)
    {
        int32_t const firstColumn = thread / kWarpSize % kWarpsN * kWarpColumns;
        LCCL_UNROLL
        for (int32_t j = 0; j < kFragmentsN / 2; ++j)
        {
            TilePlace const place = fragmentB(thread % kWarpSize, firstColumn + j * 16, innerStep);
            machine::ldmatrixX4(fragments.value[j], stageB(stage) + swizzled(place.row, place.chunk));
        }
    }

    static LCCL_DEVICE void multiplyFragments(Accumulators& acc, FragmentsA const& a, FragmentsB const& b)
    {
        LCCL_UNROLL
        for (int32_t j = 0; j < kFragmentsN; ++j)
        {
            uint32_t const(&pair)[4] = b.value[j / 2];
            LCCL_UNROLL
            for (int32_t i = 0; i < kFragmentsM; ++i)
            {
                machine::mmaM16N8K16<T>(acc.value[i][j], a.value[i], pair[j % 2 * 2], pair[j % 2 * 2 + 1]);
            }
        }
    }

    //! Starts the copies of the first steps, one group for each stage but the last.
    static LCCL_DEVICE void startCopies(Arguments const& a, Copier const& copier, int32_t firstColumn, Range const& range)
    {
        LCCL_UNROLL
        for (int32_t s = 0; s < kStages - 1; ++s)
        {
            if (range.begin + s < range.end)
            {
                copyStep(a, copier, firstColumn, range.begin + s, s);
            }
            machine::cpAsyncCommitGroup();
        }
    }

    //! acc += the steps of the range, of which startCopies has begun the first. Fragments of the
    //! next 16 elements are loaded while these are multiplied.
    //!
    //! A stage is written again one step after its last fragments were read: the barrier of that
    //! step lies between.
    static LCCL_DEVICE void multiply(
        Arguments const& a, Accumulators& acc, Copier const& copier, int32_t firstColumn, Range const& range, int32_t thread)
    {
        machine::cpAsyncWaitGroup<kStages - 2>();
        machine::syncThreads();

        FragmentsA fragmentsA[2];
        FragmentsB fragmentsB[kAheadB ? 2 : 1];
        loadA(fragmentsA[0], 0, 0, thread);
        if (kAheadB)
        {
            loadB(fragmentsB[0], 0, 0, thread);
        }
        int32_t reading = 0;
        int32_t writing = kStages - 1;
        LCCL_NO_UNROLL
        for (int32_t step = range.begin; step < range.end; ++step)
        {
            LCCL_UNROLL
            for (int32_t innerStep = 0; innerStep < kRowSteps; ++innerStep)
            {
                bool const last = innerStep == kRowSteps - 1;
                int32_t const now = innerStep % 2;
                int32_t const next = 1 - now;
                if (!kAheadB)
                {
                    loadB(fragmentsB[0], reading, innerStep, thread);
                }
                if (last)
                {
                    machine::cpAsyncWaitGroup<kStages - 2>();
                    machine::syncThreads();
                    reading = reading == kStages - 1 ? 0 : reading + 1;
                }
                if (!last || step + 1 < range.end)
                {
                    loadA(fragmentsA[next], reading, (innerStep + 1) % kRowSteps, thread);
                    if (kAheadB)
                    {
                        loadB(fragmentsB[kAheadB ? next : 0], reading, (innerStep + 1) % kRowSteps, thread);
                    }
                }
                if (innerStep == 0)
                {
                    if (step + kStages - 1 < range.end)
                    {
                        copyStep(a, copier, firstColumn, step + kStages - 1, writing);
                    }
                    machine::cpAsyncCommitGroup();
                    writing = writing == kStages - 1 ? 0 : writing + 1;
                }
                multiplyFragments(acc, fragmentsA[now], fragmentsB[kAheadB ? now : 0]);
            }
        }
        machine::cpAsyncWaitGroup<0>();
        machine::syncThreads();
    }

    //! Delivers the block's part of a tile. The last block to deliver adds up all parts in their
    //! order, so that the sum does not depend on who is last, gets true, and leaves the tile's
    //! counter at 0.
    static LCCL_DEVICE bool joinSplits(Arguments const& a, Accumulators& acc, Unit const& unit, int32_t splits, int32_t thread)
    {
        constexpr int64_t kTileElements = static_cast<int64_t>(kTileM) * kTileN;
        float* const parts = a.partials + static_cast<int64_t>(unit.tile) * splits * kTileElements;
        float* const own = parts + unit.split * kTileElements + thread * 4;
        LCCL_UNROLL
        for (int32_t i = 0; i < kFragmentsM * kFragmentsN; ++i)
        {
            Vec16 four;
            LCCL_UNROLL
            for (int32_t e = 0; e < 4; ++e)
            {
                four.word[e] = machine::bitsOfFloat(acc.value[i / kFragmentsN][i % kFragmentsN][e]);
            }
            machine::storeGlobal(reinterpret_cast<Vec16*>(own + i * kThreads * 4), four);
        }
        machine::fenceDevice();
        machine::syncThreads();
        uint32_t const flag = machine::sharedBase();
        if (thread == 0)
        {
            machine::storeShared(flag, machine::atomicAddGlobal(a.tileCounters + unit.tile, 1));
        }
        machine::syncThreads();
        if (machine::loadShared<int32_t>(flag) != splits - 1)
        {
            return false;
        }
        if (thread == 0)
        {
            machine::atomicAddGlobal(a.tileCounters + unit.tile, -splits);
        }
        machine::fenceDevice();
        acc = {};
        LCCL_NO_UNROLL
        for (int32_t split = 0; split < splits; ++split)
        {
            float const* const part = parts + split * kTileElements + thread * 4;
            LCCL_UNROLL
            for (int32_t i = 0; i < kFragmentsM * kFragmentsN; ++i)
            {
                Vec16 const four = machine::loadGlobal(reinterpret_cast<Vec16 const*>(part + i * kThreads * 4));
                LCCL_UNROLL
                for (int32_t e = 0; e < 4; ++e)
                {
                    acc.value[i / kFragmentsN][i % kFragmentsN][e] += machine::floatFromBits(four.word[e]);
                }
            }
        }
        return true;
    }

    //! Finishes a tile: 16 rows of a warp at a time go through shared memory, so that each lane
    //! holds eight channels of a row.
    static LCCL_DEVICE void writeTile(Arguments const& a, Accumulators const& acc, int32_t firstColumn, int32_t thread)
    {
        constexpr int32_t kLanesPerRow = kWarpColumns / kChunkElements;
        constexpr int32_t kRowsAtOnce = kWarpSize / kLanesPerRow;
        int32_t const lane = thread % kWarpSize;
        int32_t const warp = thread / kWarpSize;
        uint32_t const staging = machine::sharedBase() + warp * kStagingBytes;
        int32_t const firstRow = warp / kWarpsN * kWarpRows;
        int32_t const column = lane % kLanesPerRow * kChunkElements;
        int32_t const channel = firstColumn + warp % kWarpsN * kWarpColumns + column;
        stageChannels(a, firstColumn, thread);
        machine::syncThreads();
        LCCL_UNROLL
        for (int32_t i = 0; i < kFragmentsM; ++i)
        {
            stageFragments(acc.value[i], staging, lane);
            machine::syncWarp();
            LCCL_UNROLL
            for (int32_t r = 0; r < 16; r += kRowsAtOnce)
            {
                int32_t const rowOfSixteen = r + lane / kLanesPerRow;
                int32_t const row = firstRow + i * 16 + rowOfSixteen;
                int32_t const pixel = table().pixel(row);
                if (pixel >= 0 && channel < a.outputChannels)
                {
                    float sums[8];
                    loadEight(sums, staging + (rowOfSixteen * kStagingPitch + column) * 4);
                    Channel channels[8];
                    loadChannels(channels, channel - firstColumn);
                    int64_t const offset = static_cast<int64_t>(pixel) * a.outputChannels + channel;
                    storeChunk<T>(a, offset, channel, channels, sums, table().gate(row));
                }
            }
            machine::syncWarp();
        }
    }

    static LCCL_DEVICE void loadEight(float (&values)[8], uint32_t address)
    {
        LCCL_UNROLL
        for (int32_t e = 0; e < kChunkElements; e += 4)
        {
            Vec16 const four = machine::loadShared<Vec16>(address + e * 4);
            LCCL_UNROLL
            for (int32_t f = 0; f < 4; ++f)
            {
                values[e + f] = machine::floatFromBits(four.word[f]);
            }
        }
    }

    static LCCL_DEVICE uint32_t channelPlace(int32_t constant, int32_t column)
    {
        return machine::sharedBase() + kChannelsOffset + (constant * kTileN + column) * 4;
    }

    static LCCL_DEVICE void stageChannels(Arguments const& a, int32_t firstColumn, int32_t thread)
    {
        for (int32_t column = thread; column < kTileN; column += kThreads)
        {
            Channel const channel = loadChannel(a, firstColumn + column);
            machine::storeShared(channelPlace(0, column), channel.bias);
            machine::storeShared(channelPlace(1, column), channel.scale);
            machine::storeShared(channelPlace(2, column), channel.shift);
        }
    }

    static LCCL_DEVICE void loadChannels(Channel (&channels)[8], int32_t column)
    {
        float constants[3][8];
        LCCL_UNROLL
        for (int32_t i = 0; i < 3; ++i)
        {
            loadEight(constants[i], channelPlace(i, column));
        }
        LCCL_UNROLL
        for (int32_t e = 0; e < kChunkElements; ++e)
        {
            channels[e] = {constants[0][e], constants[1][e], constants[2][e]};
        }
    }

    static LCCL_DEVICE void stageFragments(float const (&values)[kFragmentsN][4], uint32_t staging, int32_t lane)
    {
        LCCL_UNROLL
        for (int32_t j = 0; j < kFragmentsN; ++j)
        {
            LCCL_UNROLL
            for (int32_t half = 0; half < 2; ++half)
            {
                int32_t const row = accumulatorRow(lane) + half * 8;
                int32_t const column = j * 8 + accumulatorColumn(lane);
                Vec8 const pair{{machine::bitsOfFloat(values[j][half * 2]), machine::bitsOfFloat(values[j][half * 2 + 1])}};
                machine::storeShared(staging + (row * kStagingPitch + column) * 4, pair);
            }
        }
    }
};

} // namespace lccl
