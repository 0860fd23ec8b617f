// The list kernel: numbers of the cells, active ones first, in ascending order whatever the blocks' timing.
#pragma once

#include "gate.h"

namespace lccl
{

struct ListKernel
{
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kBlocksPerSm = 4;
    static constexpr int32_t kSharedBytes = 4 * kThreads / kWarpSize;

    //! One block a run of segments. Each block adds up the counts before its own: no block waits for another.
    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        int32_t const firstSegment = machine::blockIndex() * a.listSegments;
        int32_t active = 0;
        for (int32_t i = thread; i < firstSegment; i += kThreads)
        {
            active += machine::loadConstant(a.segmentCounts + i);
        }
        active = sumOverBlock<kThreads>(active, thread);

        int64_t const first = static_cast<int64_t>(firstSegment) * a.segmentCells;
        int64_t const behind = first + static_cast<int64_t>(a.listSegments) * a.segmentCells;
        int32_t const end = static_cast<int32_t>(behind < a.cells ? behind : a.cells);
        for (int32_t cell = static_cast<int32_t>(first) + thread; cell - thread < end; cell += kThreads)
        {
            active += sort(a, cell, end, active, thread);
        }
        if (thread == 0 && end == a.cells)
        {
            machine::storeGlobal(a.activeCount, active);
        }
    }

private:
    //! Places the block's next kThreads cells; returns how many of them are active.
    static LCCL_DEVICE int32_t sort(Arguments const& a, int32_t cell, int32_t end, int32_t activeBefore, int32_t thread)
    {
        int32_t const lane = thread % kWarpSize;
        bool const valid = cell < end;
        bool const on = valid && machine::loadConstant(a.cellGate + cell) > 0.0F;
        uint32_t const mask = machine::ballot(on);
        uint32_t const base = machine::sharedBase();
        machine::syncThreads();
        if (lane == 0)
        {
            machine::storeShared(base + thread / kWarpSize * 4, machine::popcount(mask));
        }
        machine::syncThreads();
        int32_t before = activeBefore + machine::popcount(mask & ((1U << lane) - 1U));
        int32_t all = 0;
        LCCL_UNROLL
        for (int32_t warp = 0; warp < kThreads / kWarpSize; ++warp)
        {
            int32_t const count = machine::loadShared<int32_t>(base + warp * 4);
            before += warp < thread / kWarpSize ? count : 0;
            all += count;
        }
        if (valid)
        {
            machine::storeGlobal(a.cellList + listPlace(cell, before, on, a.cells), cell);
        }
        return all;
    }
};

} // namespace lccl
