// The machine: whose turn it is, who waits for whom, and blocks from their first thread to their
// last.

#include "engine.h"

#include "session.h"

#include <cstdlib>
#include <cxxabi.h>
#include <numeric>

namespace lccl::emulator
{

Fast fast{};
Block block;

namespace
{

Stacks stacks;

char const* nameOf(Operation operation)
{
    switch (operation)
    {
    case Operation::kSyncWarp: return "syncWarp";
    case Operation::kShuffleFloat: return "shuffleXor of floats";
    case Operation::kShuffleInt: return "shuffleXor of integers";
    case Operation::kShuffleLane: return "shuffle";
    case Operation::kBallot: return "ballot";
    case Operation::kLdmatrix: return "ldmatrixX4";
    case Operation::kMmaHalf: return "mmaM16N8K16 of Half";
    case Operation::kMmaBfloat16: return "mmaM16N8K16 of Bfloat16";
    }
    return "an operation";
}

void switchTo(Fiber& next)
{
    Fiber& self = *block.current;
    block.current = &next;
    switchContext(self.context, next.context);
}

//! Gives the launch up; the fibers are never resumed.
void abandon()
{
    session.failed = true;
    switchContext(block.current->context, block.host);
}

//! The lane of the first bit of a mask.
int32_t laneOf(Warp const& warp, uint32_t mask)
{
    return warp.turns[__builtin_ctz(mask)]->lane();
}

//! The running lane's warp can never finish its operation, because lanes have gone elsewhere.
void abandonOperation(Warp const& warp)
{
    uint32_t const elsewhere = kAllLanes & ~warp.inOperation;
    bool const barrier = (warp.atBarrier & elsewhere) != 0;
    int32_t const waiting = laneOf(warp, warp.inOperation);
    int32_t const missing = laneOf(warp, barrier ? warp.atBarrier : elsewhere);
    int32_t const warpNumber = warp.turns[0]->thread / kLanes;
    report(Fault::kDivergence, *block.current, "a warp",
        "lane " + std::to_string(waiting) + " of warp " + std::to_string(warpNumber) + " waits at " + nameOf(warp.operation)
            + ", but lane " + std::to_string(missing) + (barrier ? " waits at syncThreads" : " has exited"));
    abandon();
}

void checkStack()
{
    if (!stacks.intact(block.current->thread))
    {
        report(Fault::kStackOverflow, *block.current, "a stack",
            "uses more than the " + std::to_string(kStackBytes) + " bytes of its stack; keep arrays of a thread smaller");
        abandon();
    }
}

//! Hands the CPU on when the running lane waits at the barrier or has exited. Returns when the
//! barrier is complete.
void goElsewhere(Warp& warp)
{
    if (warp.ready != 0)
    {
        switchTo(*warp.turns[__builtin_ctz(warp.ready)]);
        return;
    }
    if (warp.inOperation != 0)
    {
        abandonOperation(warp);
    }
    block.readyWarps &= ~warp.bit;
    if (block.readyWarps != 0)
    {
        Warp const& next = *block.turns[__builtin_ctz(block.readyWarps)];
        switchTo(*next.turns[__builtin_ctz(next.ready)]);
        return;
    }
    if (block.arrived > 0)
    {
        report(Fault::kDivergence, *block.current, "the block",
            std::to_string(block.arrived) + " threads wait at syncThreads, but " + std::to_string(block.exited)
                + " have exited");
        abandon();
    }
    switchContext(block.current->context, block.host);
}

void releaseBarrier()
{
    block.arrived = 0;
    block.lastBarrier = ++block.tick;
    orderFences();
    for (Warp& warp : block.warps)
    {
        warp.atBarrier = 0;
        warp.ready = kAllLanes;
        block.readyWarps |= warp.bit;
    }
}

[[noreturn]] void runThread()
{
    block.launch.body(block.launch.arguments);
    checkStack();
    checkCopiesAtExit(*block.current);
    ++block.exited;
    Warp& warp = *block.current->warp;
    warp.ready &= ~block.current->bit;
    goElsewhere(warp);
    std::abort(); // Nobody resumes a thread that has exited.
}

//! Joins the warp's operation; returns when all 32 lanes have, and it is done.
void gather(Operation operation)
{
    Fiber const& self = *block.current;
    Warp& warp = *self.warp;
    if (warp.inOperation == 0)
    {
        warp.operation = operation;
    }
    else if (warp.operation != operation)
    {
        report(Fault::kDivergence, self, "a warp",
            std::string("comes to ") + nameOf(operation) + ", but lane " + std::to_string(laneOf(warp, warp.inOperation))
                + " of its warp waits at " + nameOf(warp.operation));
        abandon();
    }
    warp.ready &= ~self.bit;
    warp.inOperation |= self.bit;
    if (warp.inOperation == kAllLanes)
    {
        perform(warp);
        warp.lastOperation = ++block.tick;
        warp.known.order();
        warp.inOperation = 0;
        warp.ready = kAllLanes;
        return;
    }
    if (warp.ready == 0)
    {
        abandonOperation(warp);
    }
    switchTo(*warp.turns[__builtin_ctz(warp.ready)]);
}

Slot& slotOfLane()
{
    return block.current->warp->slots[block.current->lane()];
}

template <typename T>
void shuffle(T* values, int32_t count)
{
    for (int32_t i = count - 1; i > 0; --i)
    {
        std::swap(values[i], values[session.random.next(static_cast<uint32_t>(i) + 1)]);
    }
}

//! Sets the block's threads to their start, in a new order of warps and lanes.
void prepareBlock()
{
    auto const warps = static_cast<int32_t>(block.warps.size());
    block.tick = 0;
    block.lastBarrier = 0;
    block.arrived = 0;
    block.exited = 0;
    block.readyWarps = 0;
    block.known = {};
    for (Fiber& fiber : block.fibers)
    {
        fiber.fences = fiber.fencesBefore = fiber.fenceTick = 0;
        fiber.counted = fiber.acquired = false;
        fiber.groups = 0;
        fiber.copies.clear();
        stacks.prepare(fiber.thread, fiber.context, &runThread);
    }
    for (int32_t w = 0; w < warps; ++w)
    {
        block.turns[w] = &block.warps[static_cast<size_t>(w)];
    }
    shuffle(block.turns, warps);
    for (int32_t w = 0; w < warps; ++w)
    {
        Warp& warp = *block.turns[w];
        warp.bit = 1U << w;
        block.readyWarps |= warp.bit;
        warp.ready = kAllLanes;
        warp.inOperation = 0;
        warp.atBarrier = 0;
        warp.lastOperation = 0;
        warp.known = {};
        shuffle(warp.turns, kLanes);
        for (int32_t i = 0; i < kLanes; ++i)
        {
            warp.turns[i]->bit = 1U << i;
        }
    }
    resetShared();
}

void prepareLaunch(Launch const& launch)
{
    int status = 0;
    char* const readable = abi::__cxa_demangle(launch.kernel, nullptr, nullptr, &status);
    block.kernel = status == 0 ? readable : launch.kernel;
    std::free(readable);
    block.launch = launch;
    block.fibers.resize(static_cast<size_t>(launch.threads));
    block.warps.resize(static_cast<size_t>(launch.threads / kLanes));
    stacks.reserve(launch.threads);
    for (int32_t i = 0; i < launch.threads; ++i)
    {
        Fiber& fiber = block.fibers[static_cast<size_t>(i)];
        fiber.thread = i;
        fiber.warp = &block.warps[static_cast<size_t>(i / kLanes)];
        fiber.warp->turns[i % kLanes] = &fiber;
    }
    block.order.resize(launch.blocks > 0 ? static_cast<size_t>(launch.blocks) : 0);
    std::iota(block.order.begin(), block.order.end(), 0);
    shuffle(block.order.data(), static_cast<int32_t>(block.order.size()));
    block.firstRun = block.run + 1;
    resetFences();
}

} // namespace

cudaError_t runGrid(Launch const& launch)
{
    if (session.failed)
    {
        return cudaErrorLaunchFailure;
    }
    prepareLaunch(launch);
    if (launch.blocks <= 0 || launch.sharedBytes < 0 || launch.sharedBytes > kMaxSharedBytes)
    {
        report(Fault::kBadArgument,
            "launched with " + std::to_string(launch.blocks) + " blocks of " + std::to_string(launch.sharedBytes)
                + " bytes of shared memory; there must be a block, and at most " + std::to_string(kMaxSharedBytes) + " bytes");
        return cudaErrorInvalidConfiguration;
    }
    for (int32_t const index : block.order)
    {
        block.index = index;
        ++block.run;
        prepareBlock();
        Warp const& first = *block.turns[0];
        block.current = first.turns[0];
        switchContext(block.host, block.current->context);
        if (session.failed)
        {
            return cudaErrorLaunchFailure;
        }
    }
    return cudaSuccess;
}

int32_t threadIndex()
{
    return block.current->thread;
}

int32_t blockIndex()
{
    return block.index;
}

int32_t gridSize()
{
    return block.launch.blocks;
}

void syncThreads()
{
    checkStack();
    Fiber const& self = *block.current;
    Warp& warp = *self.warp;
    ++block.arrived;
    if (block.arrived == block.launch.threads)
    {
        releaseBarrier();
        return;
    }
    warp.ready &= ~self.bit;
    warp.atBarrier |= self.bit;
    goElsewhere(warp);
}

void syncWarp()
{
    gather(Operation::kSyncWarp);
}

uint32_t shuffleXor(Operation operation, uint32_t bits, int32_t mask)
{
    if (mask < 0 || mask >= kLanes)
    {
        report(Fault::kBadArgument, *block.current, "a shuffle",
            "shuffles with mask " + std::to_string(mask) + "; lanes differ by 0 to 31");
        mask = 0;
    }
    Slot& slot = slotOfLane();
    slot.value = bits;
    slot.mask = mask;
    gather(operation);
    return slot.value;
}

uint32_t ballot(bool condition)
{
    Slot& slot = slotOfLane();
    slot.value = condition ? 1 : 0;
    gather(Operation::kBallot);
    return slot.value;
}

void ldmatrixX4(uint32_t* fragment, uint32_t address)
{
    Slot& slot = slotOfLane();
    slot.value = address;
    slot.fragment = fragment;
    gather(Operation::kLdmatrix);
}

void mmaM16N8K16(Operation operation, float* c, uint32_t const* a, uint32_t b0, uint32_t b1)
{
    Slot& slot = slotOfLane();
    slot.c = c;
    slot.a = a;
    slot.b0 = b0;
    slot.b1 = b1;
    gather(operation);
}

} // namespace lccl::emulator
