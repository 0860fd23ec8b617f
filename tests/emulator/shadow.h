// How a cell of tracked memory remembers who has read it.
#pragma once

#include "block.h"

namespace lccl::emulator
{

//! Readers of a cell that nothing has ordered yet.
enum Readers : uint8_t
{
    kNoReader,
    kOneReader,
    kOneWarp,
    kSeveralWarps,
    kSeveralBlocks //!< Global memory only.
};

//! Adds a read by `actor` to the record of a cell. A read that happened before this one is
//! forgotten: what is ordered after this one is ordered after that one too.
template <typename Cell>
void recordReader(Cell& cell, Fiber const& actor)
{
    bool const alone = cell.readers == kNoReader
        || (cell.readers == kOneReader && happenedBefore(actor, cell.reader, cell.readTick))
        || (cell.readers == kOneWarp && cell.reader / kLanes == actor.thread / kLanes
            && cell.readTick < actor.warp->lastOperation)
        || (cell.readers <= kSeveralWarps && cell.readTick < block.lastBarrier);
    if (alone)
    {
        cell.readers = kOneReader;
    }
    else if (cell.readers <= kOneWarp)
    {
        cell.readers = cell.reader / kLanes == actor.thread / kLanes ? kOneWarp : kSeveralWarps;
    }
    cell.reader = static_cast<decltype(cell.reader)>(actor.thread);
    cell.readTick = block.tick;
}

//! Whether all reads of a cell by this block's threads happened before what `actor` does now.
template <typename Cell>
bool readersAreDone(Cell const& cell, Fiber const& actor)
{
    switch (cell.readers)
    {
    case kNoReader: return true;
    case kOneReader: return happenedBefore(actor, cell.reader, cell.readTick);
    case kOneWarp:
        return cell.readTick < block.lastBarrier
            || (cell.reader / kLanes == actor.thread / kLanes && cell.readTick < actor.warp->lastOperation);
    default: return cell.readTick < block.lastBarrier;
    }
}

} // namespace lccl::emulator
