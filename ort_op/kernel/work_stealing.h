// Work stealing: each worker begins with a range of tasks of its own and goes through it in order,
// so that a band finds what the one above left in the scratch. A worker without tasks takes the
// back half of another's range. Each range is in its worker's scratch.
#pragma once

#include "plan.h"

namespace lccl_cpu
{

//! Tasks [begin, end) of a worker; read and written as one 64-bit word.
struct Range
{
    uint32_t begin, end;
};

static inline uint64_t* rangeOf(char* workspace, Plan const& plan, int64_t worker)
{
    return reinterpret_cast<uint64_t*>(workspace + static_cast<size_t>(worker) * plan.scratch.bytes + plan.scratch.range);
}

static inline uint64_t toBits(Range range)
{
    return uint64_t{range.begin} | uint64_t{range.end} << 32;
}

static inline Range toRange(uint64_t bits)
{
    return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
}

//! Deals all tasks out in even ranges, before any worker begins.
static inline void splitTasks(char* workspace, Plan const& plan)
{
    for (int64_t worker = 0; worker < plan.workers; ++worker)
    {
        int64_t const begin = plan.tasks * worker / plan.workers, end = plan.tasks * (worker + 1) / plan.workers;
        *rangeOf(workspace, plan, worker) = toBits({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    }
}

//! Cuts a range at `cut(range)` and takes its back with `takesBack`, else its front.
//! \return the tasks that were taken; an empty range if there were none
template <typename Cut>
static inline Range takeFrom(uint64_t* range, bool takesBack, Cut cut)
{
    uint64_t seen = __atomic_load_n(range, __ATOMIC_RELAXED);
    for (;;)
    {
        Range const whole = toRange(seen);
        if (whole.begin >= whole.end)
        {
            return {0, 0};
        }
        uint32_t const at = cut(whole);
        Range const front{whole.begin, at}, back{at, whole.end};
        if (__atomic_compare_exchange_n(
                range, &seen, toBits(takesBack ? front : back), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        {
            return takesBack ? back : front;
        }
    }
}

//! \return the next task of a worker, or -1 if all are taken
static inline int64_t takeTask(char* workspace, Plan const& plan, int64_t worker)
{
    uint64_t* const own = rangeOf(workspace, plan, worker);
    Range const next = takeFrom(own, false, [](Range whole) { return whole.begin + 1; });
    if (next.begin < next.end)
    {
        return next.begin;
    }
    for (int64_t i = 1; i < plan.workers; ++i)
    {
        uint64_t* const other = rangeOf(workspace, plan, (worker + i) % plan.workers);
        Range const taken = takeFrom(other, true, [](Range whole) { return whole.begin + (whole.end - whole.begin) / 2; });
        if (taken.begin < taken.end)
        {
            __atomic_store_n(own, toBits({taken.begin + 1, taken.end}), __ATOMIC_RELAXED);
            return taken.begin;
        }
    }
    return -1;
}

} // namespace lccl_cpu
