// The gate kernel: the gate of every cell in float32, and how many cells of each segment are active.
#pragma once

#include "epilogue.h"

namespace lccl
{

//! Sum over the threads of a block, known to all of them. Uses the first 4 bytes of shared memory for each warp.
template <int32_t kThreads>
LCCL_DEVICE int32_t sumOverBlock(int32_t value, int32_t thread)
{
    constexpr int32_t kWarps = kThreads / kWarpSize;
    LCCL_UNROLL
    for (int32_t mask = kWarpSize / 2; mask > 0; mask /= 2)
    {
        value += machine::shuffleXor(value, mask);
    }
    uint32_t const base = machine::sharedBase();
    machine::syncThreads();
    if (thread % kWarpSize == 0)
    {
        machine::storeShared(base + thread / kWarpSize * 4, value);
    }
    machine::syncThreads();
    int32_t sum = 0;
    LCCL_UNROLL
    for (int32_t warp = 0; warp < kWarps; ++warp)
    {
        sum += machine::loadShared<int32_t>(base + warp * 4);
    }
    return sum;
}

template <typename T>
struct GateKernel
{
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kBlocksPerSm = 4;
    static constexpr int32_t kSharedBytes = 4 * kThreads / kWarpSize;

    //! One block a segment. Lanes that share a cell share its sum, in an order that depends on nothing but sizes.
    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        int32_t const segment = machine::blockIndex();
        for (int32_t i = segment * kThreads + thread; i < a.counters; i += machine::gridSize() * kThreads)
        {
            machine::storeGlobal(a.tileCounters + i, 0);
        }
        int32_t const lane = thread & (a.gateLanes - 1);
        int32_t const cellsAtOnce = kThreads / a.gateLanes;
        int64_t const first = static_cast<int64_t>(segment) * a.segmentCells;
        int32_t active = 0;
        for (int32_t i = 0; i < a.segmentCells; i += cellsAtOnce)
        {
            int32_t const inSegment = i + thread / a.gateLanes;
            int64_t const cell = first + inSegment;
            bool const valid = inSegment < a.segmentCells && cell < a.cells;
            float sum = valid && a.gateWeight != nullptr ? partialLogit(a, static_cast<int32_t>(cell), lane) : 0.0F;
            for (int32_t mask = a.gateLanes / 2; mask > 0; mask /= 2)
            {
                sum += machine::shuffleXor(sum, mask);
            }
            if (valid && lane == 0)
            {
                float gate = decide(a, static_cast<int32_t>(cell), sum);
                gate = a.simulatedDensity < 0.0F ? gate : simulate(a, static_cast<int32_t>(cell));
                machine::storeGlobal(a.cellGate + cell, gate);
                active += gate > 0.0F ? 1 : 0;
            }
        }
        active = sumOverBlock<kThreads>(active, thread);
        if (thread == 0)
        {
            machine::storeGlobal(a.segmentCounts + segment, active);
        }
    }

private:
    //! The lane's share of gate_weight * x.
    static LCCL_DEVICE float partialLogit(Arguments const& a, int32_t cell, int32_t lane)
    {
        int32_t const line = a.byGateWidth.quotient(cell);
        int32_t const n = a.byGateHeight.quotient(line);
        int32_t const h0 = a.byGateHeight.remainder(line, n) * a.gateStrideH - a.gatePadTop;
        int32_t const w0 = a.byGateWidth.remainder(cell, line) * a.gateStrideW - a.gatePadLeft;
        bool const vector = sizeof(T) == 2;
        FastDivisor const& byChannels = vector ? a.byChannelChunks : a.byChannels;
        int32_t const steps = a.gateR * a.gateS * static_cast<int32_t>(byChannels.divisor);
        float sum = 0.0F;
        for (int32_t step = lane; step < steps; step += a.gateLanes)
        {
            Tap const tap = decodeTap(step, byChannels, a.byGateKernelWidth);
            int32_t const h = h0 + tap.r * a.gateDilationH;
            int32_t const w = w0 + tap.s * a.gateDilationW;
            if (onInput(h, w, a.h, a.w))
            {
                int64_t const pixel = n * a.xStrides.n + h * a.xStrides.h + w * a.xStrides.w;
                if constexpr (sizeof(T) == 2)
                {
                    sum += chunkProduct(a, pixel, step, tap.channel);
                }
                else
                {
                    float const x = machine::loadConstant(static_cast<T const*>(a.x) + pixel + tap.channel * a.xStrides.channel);
                    sum += x * machine::loadConstant(static_cast<T const*>(a.gateWeight) + step);
                }
            }
        }
        return sum;
    }

    //! Eight channels of a pixel; x is padded to whole chunks, the weights are not, and the padding is not looked at.
    static LCCL_DEVICE float chunkProduct(Arguments const& a, int64_t pixel, int32_t step, int32_t chunk)
    {
        T const* const x = static_cast<T const*>(a.x) + pixel + chunk * kChunkElements;
        T const* const weights = static_cast<T const*>(a.gateWeight);
        Vec16 const xs = machine::loadConstant(reinterpret_cast<Vec16 const*>(x));
        float sum = 0.0F;
        if (a.c % kChunkElements == 0)
        {
            Vec16 const ws = machine::loadConstant(reinterpret_cast<Vec16 const*>(weights + static_cast<int64_t>(step) * kChunkElements));
            LCCL_UNROLL
            for (int32_t e = 0; e < kChunkElements; ++e)
            {
                sum += machine::toFloat(element<T>(xs, e)) * machine::toFloat(element<T>(ws, e));
            }
            return sum;
        }
        int64_t const firstWeight = static_cast<int64_t>(step / a.channelChunks) * a.c + chunk * kChunkElements;
        LCCL_UNROLL
        for (int32_t e = 0; e < kChunkElements; ++e)
        {
            if (chunk * kChunkElements + e < a.c)
            {
                sum += machine::toFloat(element<T>(xs, e)) * machine::toFloat(machine::loadConstant(weights + firstWeight + e));
            }
        }
        return sum;
    }

    //! The cell's gate; 0 where it is not above the threshold, or a NaN.
    static LCCL_DEVICE float decide(Arguments const& a, int32_t cell, float sum)
    {
        float const logit = sum + (a.gateBias == nullptr ? 1.0F : machine::loadConstant(a.gateBias));
        float gate = a.gateSlope * logit;
        gate = gate > 0.0F ? gate : 0.0F;
        gate = gate < a.gateMax ? gate : a.gateMax;
        if (a.gate != nullptr)
        {
            gate *= machine::toFloat(machine::loadConstant(static_cast<T const*>(a.gate) + cell));
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
