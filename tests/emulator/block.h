// The running block: its threads, its warps, and what has happened before what.
#pragma once

#include "engine.h"
#include "fiber.h"

#include <string>
#include <vector>

namespace lccl::emulator
{

constexpr int32_t kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffU;

struct Warp;

//! A copy that has been issued and has not landed. Its source was read when it was issued.
struct Copy
{
    uint32_t offset;
    uint32_t group;
    unsigned char data[16];
};

struct Fiber
{
    Context context;
    Warp* warp = nullptr;
    int32_t thread = 0;
    uint32_t bit = 0;          //!< Its place in the masks of its warp, which is not its lane.
    uint32_t fences = 0;       //!< Fences since the block began.
    uint32_t fencesBefore = 0; //!< Those before the last barrier.
    uint32_t fenceTick = 0;    //!< Of the last fence.
    bool counted = false;      //!< Has added to global memory.
    bool acquired = false;     //!< Has called a fence after an addition of its block that happened before.
    uint32_t groups = 0;       //!< Groups of copies that are closed.
    std::vector<Copy> copies;

    int32_t lane() const
    {
        return thread % kLanes;
    }
};

//! What a lane brings to a warp-wide operation.
struct Slot
{
    uint32_t value; //!< Bits, a condition, or an address.
    int32_t mask;
    uint32_t* fragment;
    float* c;
    uint32_t const* a;
    uint32_t b0;
    uint32_t b1;
};

//! What threads of a warp or block have done to learn of other blocks, and which of it an operation
//! of them all has ordered.
struct Known
{
    bool counted = false;
    bool countedBefore = false;
    bool acquired = false;
    bool acquiredBefore = false;

    void order()
    {
        countedBefore = counted;
        acquiredBefore = acquired;
    }
};

//! Masks hold a bit for each lane, in the order in which lanes take their turns.
struct Warp
{
    uint32_t ready = 0;
    uint32_t inOperation = 0;
    uint32_t atBarrier = 0;
    Operation operation = Operation::kSyncWarp;
    uint32_t lastOperation = 0; //!< Tick of the last one that completed.
    uint32_t bit = 0;           //!< Its place in Block::readyWarps.
    Known known;
    Fiber* turns[kLanes] = {};
    Slot slots[kLanes] = {}; //!< By lane.
};

//! Time is counted in ticks, one for each operation that completes: what two threads do is ordered
//! if a barrier that holds both completed between.
struct Block
{
    Launch launch{};
    std::string kernel; //!< Readable name.
    int32_t index = 0;
    uint32_t run = 0;      //!< Number of this block's run since begin, from 1.
    uint32_t firstRun = 0; //!< Of this launch: what has a smaller number was done by an earlier launch.
    uint32_t tick = 0;
    uint32_t lastBarrier = 0;
    uint32_t readyWarps = 0;
    Known known;
    int32_t arrived = 0; //!< Threads at the barrier.
    int32_t exited = 0;
    Fiber* current = nullptr;
    std::vector<int32_t> order; //!< Block number of each run of this launch.
    std::vector<Fiber> fibers;  //!< By thread.
    std::vector<Warp> warps;
    Warp* turns[kMaxThreads / kLanes] = {};
    Context host;
};
extern Block block;

//! Whether what thread `other` of this block did at `tick` happened before what `actor` does now.
inline bool happenedBefore(Fiber const& actor, int32_t other, uint32_t tick)
{
    return other == actor.thread || tick < block.lastBarrier
        || (other / kLanes == actor.thread / kLanes && tick < actor.warp->lastOperation);
}

//! Does what the 32 lanes of a warp have gathered for.
void perform(Warp& warp);

// ---- shared memory -----------------------------------------------------------------------------

//! Shared memory as a block finds it: junk, never written.
void resetShared();

//! A tracked read by one thread.
void readSharedBy(Fiber const& actor, void* value, uint32_t address, uint32_t bytes);

//! Reports copies that a thread leaves behind at its end.
void checkCopiesAtExit(Fiber const& actor);

// ---- global memory -----------------------------------------------------------------------------

//! Forgets the fences of the last launch.
void resetFences();

//! What a complete barrier orders.
void orderFences();

//! A tracked read by one thread, of 2 to 16 bytes at an aligned address.
void readGlobalBy(Fiber const& actor, void* value, void const* address, uint32_t bytes, ReadKind kind);

} // namespace lccl::emulator
