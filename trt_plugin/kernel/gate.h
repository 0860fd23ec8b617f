// The gate kernel: computes the gate of every cell in float32 and lists the cells of each segment.
#pragma once

#include "epilogue.h"

namespace lccl
{

//! One block per segment, in rounds: first the sums of a round's cells, by lanes that share a cell;
//! then gates and places in the list, one thread per cell.
template <typename T>
struct GateKernel
{
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kBlocksPerSm = 2;
    static constexpr int32_t kWarps = kThreads / kWarpSize;
    //! Cells per round whose gates one thread decides.
    static constexpr int32_t kOwnCells = 4;
    static constexpr int32_t kRoundCells = kThreads * kOwnCells;
    static constexpr int32_t kCountsBytes = kOwnCells * kWarps * 4;
    static constexpr int32_t kSharedBytes = kRoundCells * 4 + kCountsBytes;
    static_assert(kOwnCells * kWarps == kWarpSize, "the lanes of a warp add up the counts of a round");

    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        int32_t const segment = machine::blockIndex();
        for (int32_t i = segment * kThreads + thread; i < a.counters; i += machine::gridSize() * kThreads)
        {
            machine::storeGlobal(a.tileCounters + i, 0);
        }
        Range const cells{segment * a.segmentCells, smaller((segment + 1) * a.segmentCells, a.cells)};
        int32_t active = 0;
        for (int32_t round = cells.first; round < cells.end; round += kRoundCells)
        {
            if (a.gateWeight != nullptr)
            {
                sumRound(a, {round, smaller(round + kRoundCells, cells.end)}, thread);
            }
            // Sums are there, and the counts of the round before have been read. That its sums have
            // been read says the barrier before those counts.
            machine::syncThreads();
            active += decideRound(a, cells, round, active, thread);
        }
        if (thread == 0)
        {
            machine::storeGlobal(a.segmentCounts + segment, active);
        }
    }

private:
    //! Cells first to end - 1.
    struct Range
    {
        int32_t first;
        int32_t end;
    };

    //! Elements that one load of x brings.
    static constexpr int32_t kVector = sizeof(T) == 2 ? kChunkElements : 1;

    static LCCL_DEVICE uint32_t sumPlace(int32_t inRound)
    {
        return machine::sharedBase() + inRound * 4;
    }

    static LCCL_DEVICE uint32_t countPlace(int32_t number)
    {
        return machine::sharedBase() + kRoundCells * 4 + number * 4;
    }

    // ---- sums ----------------------------------------------------------------------------------

    //! gate_weight * x of each cell, into shared memory. Where lanes have several cells each, four
    //! cells are summed side by side; where they have one, four steps of the sum: either way a
    //! thread has four loads under way. The order of a cell's sum depends on nothing but sizes.
    static LCCL_DEVICE void sumRound(Arguments const& a, Range const& round, int32_t thread)
    {
        if (a.segmentCells > kThreads / a.gateLanes)
        {
            sumCells<4, 1>(a, round, thread);
        }
        else
        {
            sumCells<1, 4>(a, round, thread);
        }
    }

    template <int32_t kCells, int32_t kSteps>
    static LCCL_DEVICE void sumCells(Arguments const& a, Range const& round, int32_t thread)
    {
        int32_t const lane = thread & (a.gateLanes - 1);
        int32_t const cellsAtOnce = kThreads / a.gateLanes;
        LCCL_NO_UNROLL
        for (int32_t begin = round.first; begin < round.end; begin += cellsAtOnce * kCells)
        {
            Window windows[kCells];
            float sums[kCells];
            LCCL_UNROLL
            for (int32_t i = 0; i < kCells; ++i)
            {
                windows[i] = windowOf(a, begin + i * cellsAtOnce + thread / a.gateLanes, round.end);
                sums[i] = 0.0F;
            }
            if (kVector == 1 || a.c % kVector == 0)
            {
                addProducts<kCells, kSteps, true>(a, windows, sums, lane);
            }
            else
            {
                addProducts<kCells, kSteps, false>(a, windows, sums, lane);
            }
            LCCL_UNROLL
            for (int32_t i = 0; i < kCells; ++i)
            {
                for (int32_t mask = a.gateLanes / 2; mask > 0; mask /= 2)
                {
                    sums[i] += machine::shuffleXor(sums[i], mask);
                }
                int32_t const cell = begin + i * cellsAtOnce + thread / a.gateLanes;
                if (lane == 0 && cell < round.end)
                {
                    machine::storeShared(sumPlace(cell - round.first), sums[i]);
                }
            }
        }
    }

    //! The part of x that a cell's gate reads.
    struct Window
    {
        int64_t image; //!< Offset of the image; -1: there is no such cell.
        int32_t h;
        int32_t w;
    };

    static LCCL_DEVICE Window windowOf(Arguments const& a, int32_t cell, int32_t end)
    {
        if (cell >= end)
        {
            return {-1, 0, 0};
        }
        int32_t const line = a.byGateWidth.quotient(cell);
        int32_t const n = a.byGateHeight.quotient(line);
        return {n * a.xStrides.n, a.byGateHeight.remainder(line, n) * a.gateStrideH - a.gatePadTop,
            a.byGateWidth.remainder(cell, line) * a.gateStrideW - a.gatePadLeft};
    }

    //! The elements of one load: eight of 16 bits, or a float.
    struct Loaded
    {
        Vec16 bits;

        LCCL_DEVICE float value(int32_t e) const
        {
            if constexpr (kVector == 1)
            {
                return machine::floatFromBits(bits.word[0]);
            }
            else
            {
                return machine::toFloat(element<T>(bits, e));
            }
        }
    };

    static LCCL_DEVICE Loaded load(T const* address)
    {
        Loaded loaded{{{0, 0, 0, 0}}};
        if constexpr (kVector == 1)
        {
            loaded.bits.word[0] = machine::bitsOfFloat(machine::loadConstant(address));
        }
        else
        {
            loaded.bits = machine::loadConstant(reinterpret_cast<Vec16 const*>(address));
        }
        return loaded;
    }

    //! Adds the lane's share of each cell's products, step by step.
    //! \tparam kWhole whether all loads bring channels only; else a pixel's last one brings
    //! padding, too, which is not looked at
    template <int32_t kCells, int32_t kSteps, bool kWhole>
    static LCCL_DEVICE void addProducts(
        Arguments const& a, Window const (&windows)[kCells], float (&sums)[kCells], int32_t lane)
    {
        FastDivisor const& byLoads = kVector == 1 ? a.byChannels : a.byChannelChunks;
        int32_t const steps = a.gateR * a.gateS * static_cast<int32_t>(byLoads.divisor);
        T const* const x = static_cast<T const*>(a.x);
        LCCL_NO_UNROLL
        for (int32_t first = lane; first < steps; first += a.gateLanes * kSteps)
        {
            Loaded xs[kSteps][kCells];
            bool seen[kSteps][kCells];
            LCCL_UNROLL
            for (int32_t s = 0; s < kSteps; ++s)
            {
                int32_t const step = first + s * a.gateLanes;
                Tap const tap = decodeTap(smaller(step, steps - 1), byLoads, a.byGateKernelWidth);
                int64_t const channel = tap.channel * kVector * a.xStrides.channel;
                LCCL_UNROLL
                for (int32_t i = 0; i < kCells; ++i)
                {
                    int32_t const h = windows[i].h + tap.r * a.gateDilationH;
                    int32_t const w = windows[i].w + tap.s * a.gateDilationW;
                    seen[s][i] = step < steps && windows[i].image >= 0 && onInput(h, w, a.h, a.w);
                    xs[s][i] = {{{0, 0, 0, 0}}};
                    if (seen[s][i])
                    {
                        xs[s][i] = load(x + windows[i].image + h * a.xStrides.h + w * a.xStrides.w + channel);
                    }
                }
            }
            LCCL_UNROLL
            for (int32_t s = 0; s < kSteps; ++s)
            {
                int32_t const step = first + s * a.gateLanes;
                if (step < steps)
                {
                    addStep<kCells, kWhole>(a, xs[s], seen[s], sums, step, byLoads);
                }
            }
        }
    }

    template <int32_t kCells, bool kWhole>
    static LCCL_DEVICE void addStep(Arguments const& a, Loaded const (&xs)[kCells], bool const (&seen)[kCells],
        float (&sums)[kCells], int32_t step, FastDivisor const& byLoads)
    {
        T const* const weights = static_cast<T const*>(a.gateWeight);
        float weight[kVector];
        int32_t channels = kVector;
        if constexpr (kWhole)
        {
            Loaded const loaded = load(weights + static_cast<int64_t>(step) * kVector);
            LCCL_UNROLL
            for (int32_t e = 0; e < kVector; ++e)
            {
                weight[e] = loaded.value(e);
            }
        }
        else
        {
            int32_t const tap = byLoads.quotient(step);
            int32_t const channel = byLoads.remainder(step, tap) * kVector;
            channels = smaller(kVector, a.c - channel);
            LCCL_UNROLL
            for (int32_t e = 0; e < kVector; ++e)
            {
                weight[e] = 0.0F;
                if (e < channels)
                {
                    weight[e] = machine::toFloat(
                        machine::loadConstant(weights + static_cast<int64_t>(tap) * a.c + channel + e));
                }
            }
        }
        LCCL_UNROLL
        for (int32_t i = 0; i < kCells; ++i)
        {
            float sum = 0.0F;
            LCCL_UNROLL
            for (int32_t e = 0; e < kVector; ++e)
            {
                sum += kWhole || e < channels ? xs[i].value(e) * weight[e] : 0.0F;
            }
            sums[i] += seen[i] ? sum : 0.0F;
        }
    }

    // ---- gates and places ----------------------------------------------------------------------

    //! Gates of a round's cells, and their places in the segment's list; returns how many are
    //! active.
    static LCCL_DEVICE int32_t decideRound(
        Arguments const& a, Range const& cells, int32_t round, int32_t activeBefore, int32_t thread)
    {
        int32_t const lane = thread % kWarpSize;
        int32_t const warp = thread / kWarpSize;
        float external[kOwnCells];
        LCCL_UNROLL
        for (int32_t i = 0; i < kOwnCells; ++i)
        {
            int32_t const cell = round + i * kThreads + thread;
            external[i] = 1.0F;
            if (a.gate != nullptr && cell < cells.end)
            {
                external[i] = machine::toFloat(machine::loadConstant(static_cast<T const*>(a.gate) + cell));
            }
        }
        float const bias = a.gateBias == nullptr ? 1.0F : machine::loadConstant(a.gateBias);
        uint32_t masks[kOwnCells];
        LCCL_UNROLL
        for (int32_t i = 0; i < kOwnCells; ++i)
        {
            int32_t const cell = round + i * kThreads + thread;
            float gate = 0.0F;
            if (cell < cells.end)
            {
                float const sum = a.gateWeight == nullptr ? 0.0F : machine::loadShared<float>(sumPlace(cell - round));
                gate = a.simulatedDensity < 0.0F ? decide(a, sum + bias, external[i]) : simulate(a, cell);
                machine::storeGlobal(a.cellGate + cell, gate);
            }
            masks[i] = machine::ballot(gate > 0.0F);
            if (lane == 0)
            {
                machine::storeShared(countPlace(i * kWarps + warp), machine::popcount(masks[i]));
            }
        }
        machine::syncThreads();
        // Each lane adds up one of the round's counts: of the cells i * kThreads + warp * 32 and
        // the 31 after, number i * kWarps + warp.
        int32_t const count = machine::loadShared<int32_t>(countPlace(lane));
        int32_t sum = count;
        LCCL_UNROLL
        for (int32_t distance = 1; distance < kWarpSize; distance *= 2)
        {
            int32_t const other = machine::shuffle(sum, lane < distance ? lane : lane - distance);
            sum += lane < distance ? 0 : other;
        }
        LCCL_UNROLL
        for (int32_t i = 0; i < kOwnCells; ++i)
        {
            int32_t const cell = round + i * kThreads + thread;
            int32_t const inRound = machine::shuffle(sum - count, i * kWarps + warp);
            int32_t const before = activeBefore + inRound + machine::popcount(masks[i] & ((1U << lane) - 1U));
            if (cell < cells.end && a.identityAbove >= 0) // else nobody asks for the list
            {
                bool const active = ((masks[i] >> lane) & 1U) != 0;
                machine::storeGlobal(a.cellList + listPlace(cell, cells.first, cells.end, before, active), cell);
            }
        }
        return machine::shuffle(sum, kWarpSize - 1);
    }

    //! A cell's gate; 0 where it is not above the threshold, or a NaN.
    static LCCL_DEVICE float decide(Arguments const& a, float logit, float external)
    {
        float gate = a.gateSlope * logit;
        gate = gate > 0.0F ? gate : 0.0F;
        gate = gate < a.gateMax ? gate : a.gateMax;
        if (a.gate != nullptr)
        {
            gate *= external;
        }
        return gate > a.gateThreshold ? gate : 0.0F;
    }

    static LCCL_DEVICE float simulate(Arguments const& a, int32_t cell)
    {
        int32_t const line = a.byGateWidth.quotient(cell);
        return simulatedShare(line, a.byGateWidth.remainder(cell, line), a.grid) < a.simulatedDensity ? 1.0F : 0.0F;
    }
};

} // namespace lccl
