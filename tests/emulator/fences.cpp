// What one block of a launch may know of another: written, fenced, counted by an atomic addition;
// then counted, fenced, read.

#include "session.h"

#include <algorithm>

namespace lccl::emulator
{
namespace
{

constexpr uint32_t kMostFences = 0xffff;

//! Fences of each thread of each block of this launch that happened before an addition by its
//! block; empty until the first.
std::vector<uint16_t> released;

bool fencesCalled = false;

size_t place(uint32_t run, int32_t thread)
{
    return static_cast<size_t>(run - block.firstRun) * static_cast<size_t>(block.launch.threads) + static_cast<size_t>(thread);
}

} // namespace

void resetFences()
{
    released.clear();
    fencesCalled = false;
}

void fenceDevice()
{
    Fiber& actor = *block.current;
    actor.fences = std::min(actor.fences + 1, kMostFences);
    actor.fenceTick = block.tick;
    fencesCalled = true;
    if (actor.counted || actor.warp->known.countedBefore || block.known.countedBefore)
    {
        actor.acquired = true;
        actor.warp->known.acquired = true;
        block.known.acquired = true;
    }
}

void orderFences()
{
    block.known.order();
    if (fencesCalled)
    {
        for (Fiber& fiber : block.fibers)
        {
            fiber.fencesBefore = fiber.fences;
        }
    }
}

void recordCount(Fiber& actor)
{
    actor.counted = true;
    actor.warp->known.counted = true;
    block.known.counted = true;
    if (!fencesCalled)
    {
        return;
    }
    if (released.empty())
    {
        released.resize(static_cast<size_t>(block.launch.blocks) * static_cast<size_t>(block.launch.threads));
    }
    for (Fiber const& fiber : block.fibers)
    {
        uint32_t const fences = happenedBefore(actor, fiber.thread, fiber.fenceTick) ? fiber.fences : fiber.fencesBefore;
        uint16_t& known = released[place(block.run, fiber.thread)];
        known = std::max(known, static_cast<uint16_t>(fences));
    }
}

bool isReleased(GlobalCell const& cell)
{
    return !released.empty()
        && (cell.writerFences == kMostFences || released[place(cell.writeRun, cell.writer)] > cell.writerFences);
}

bool hasAcquired(Fiber const& actor)
{
    return actor.acquired || actor.warp->known.acquiredBefore || block.known.acquiredBefore;
}

} // namespace lccl::emulator
