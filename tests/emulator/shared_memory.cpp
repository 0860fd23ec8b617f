// Shared memory: bounds, first writes, races, and copies that are under way.

#include "session.h"
#include "shadow.h"

#include <algorithm>
#include <cstring>

namespace lccl::emulator
{
namespace
{

constexpr int16_t kNobody = -1;

//! Who last wrote and read four bytes.
struct SharedCell
{
    uint32_t writeTick;
    uint32_t readTick;
    int16_t writer;
    int16_t reader;
    int16_t copier; //!< Thread whose copy is under way to these bytes.
    uint8_t readers;
};
constexpr uint32_t kCellBytes = 4;

std::vector<SharedCell> cells;
std::vector<unsigned char> bytesOfBlock;

std::string const kThing = "shared memory";

std::string place(uint32_t offset, uint32_t bytes)
{
    return std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of shared memory";
}

//! Whether the bytes exist and the address is a multiple of their number.
bool valid(Fiber const& actor, char const* does, uint32_t address, uint32_t bytes)
{
    int64_t const offset = static_cast<int64_t>(address) - kSharedBase;
    bool const inside = offset >= 0 && offset + bytes <= fast.sharedBytes;
    if (inside && address % bytes == 0)
    {
        return true;
    }
    report(inside ? Fault::kMisaligned : Fault::kOutOfBounds, actor, kThing,
        std::string(does) + " " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of shared memory"
            + (inside ? ", which is not a multiple of their number"
                      : "; the block has " + std::to_string(fast.sharedBytes) + " bytes"));
    return false;
}

//! The checks of a read that has passed `valid`.
void trackRead(Fiber const& actor, uint32_t offset, uint32_t bytes)
{
    for (uint32_t i = offset / kCellBytes; i < (offset + bytes) / kCellBytes; ++i)
    {
        SharedCell& cell = cells[i];
        if (cell.copier != kNobody)
        {
            report(Fault::kCopyUnderWay, actor, kThing,
                "reads " + place(offset, bytes) + " while a copy of thread " + std::to_string(cell.copier)
                    + " is under way to them; it must wait for its group first");
            return;
        }
        if (cell.writer == kNobody)
        {
            report(
                Fault::kUninitialised, actor, kThing, "reads " + place(offset, bytes) + ", which this block has not written");
            return;
        }
        if (!happenedBefore(actor, cell.writer, cell.writeTick))
        {
            report(Fault::kRace, actor, kThing,
                "reads " + place(offset, bytes) + ", which thread " + std::to_string(cell.writer)
                    + " wrote with no barrier between");
            return;
        }
        recordReader(cell, actor);
    }
}

//! The checks of a write, or of the start of a copy, that has passed `valid`.
void trackWrite(Fiber const& actor, char const* does, uint32_t offset, uint32_t bytes)
{
    for (uint32_t i = offset / kCellBytes; i < (offset + bytes) / kCellBytes; ++i)
    {
        SharedCell& cell = cells[i];
        std::string other;
        if (cell.copier != kNobody)
        {
            report(Fault::kCopyUnderWay, actor, kThing,
                std::string(does) + " " + place(offset, bytes) + " while a copy of thread " + std::to_string(cell.copier)
                    + " is under way to them");
            return;
        }
        if (cell.writer != kNobody && !happenedBefore(actor, cell.writer, cell.writeTick))
        {
            other = std::to_string(cell.writer) + " wrote";
        }
        else if (!readersAreDone(cell, actor))
        {
            other = std::to_string(cell.reader) + " read";
        }
        if (!other.empty())
        {
            report(Fault::kRace, actor, kThing,
                std::string(does) + " " + place(offset, bytes) + ", which thread " + other + " with no barrier between");
            return;
        }
    }
}

void recordWrite(Fiber const& actor, uint32_t offset, uint32_t bytes)
{
    for (uint32_t i = offset / kCellBytes; i < (offset + bytes) / kCellBytes; ++i)
    {
        cells[i] = {block.tick, 0, static_cast<int16_t>(actor.thread), kNobody, kNobody, kNoReader};
    }
}

//! The words of the source of a copy, zeros behind its `bytes`.
void readSource(Fiber const& actor, unsigned char* data, void const* global, int32_t bytes, ReadKind kind)
{
    std::memset(data, 0, 16);
    if (bytes == 0)
    {
        return;
    }
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
    {
        report(Fault::kMisaligned, actor, "a copy's source",
            "copies from an address that is " + std::to_string(reinterpret_cast<uintptr_t>(global) % 16)
                + " bytes behind a multiple of 16");
        return;
    }
    readGlobalBy(actor, data, global, static_cast<uint32_t>(bytes), kind);
}

//! Lets copies of all closed groups but the newest `pending` land.
void land(Fiber& actor, uint32_t pending)
{
    auto copy = actor.copies.begin();
    for (; copy != actor.copies.end() && copy->group + pending < actor.groups; ++copy)
    {
        std::memcpy(fast.shared + copy->offset, copy->data, sizeof(copy->data));
        recordWrite(actor, copy->offset, sizeof(copy->data));
    }
    actor.copies.erase(actor.copies.begin(), copy);
}

} // namespace

void resetShared()
{
    bytesOfBlock.resize(kMaxSharedBytes + 16);
    fast.sharedBytes = static_cast<uint32_t>(block.launch.sharedBytes);
    fast.shared = bytesOfBlock.data() + (16 - reinterpret_cast<uintptr_t>(bytesOfBlock.data()) % 16) % 16;
    std::memset(fast.shared, 0xff, fast.sharedBytes); // NaN in every type.
    if (fast.checked)
    {
        cells.assign(fast.sharedBytes / kCellBytes + 1, SharedCell{0, 0, kNobody, kNobody, kNobody, kNoReader});
    }
}

void readSharedBy(Fiber const& actor, void* value, uint32_t address, uint32_t bytes)
{
    std::memset(value, 0, bytes);
    if (!valid(actor, "reads", address, bytes))
    {
        return;
    }
    if (fast.checked)
    {
        trackRead(actor, address - kSharedBase, bytes);
    }
    std::memcpy(value, fast.shared + (address - kSharedBase), bytes);
}

void readShared(void* value, uint32_t address, uint32_t bytes)
{
    readSharedBy(*block.current, value, address, bytes);
}

void writeShared(uint32_t address, void const* value, uint32_t bytes)
{
    Fiber const& actor = *block.current;
    if (!valid(actor, "writes", address, bytes))
    {
        return;
    }
    if (fast.checked)
    {
        trackWrite(actor, "writes", address - kSharedBase, bytes);
        recordWrite(actor, address - kSharedBase, bytes);
    }
    std::memcpy(fast.shared + (address - kSharedBase), value, bytes);
}

void startCopy(uint32_t shared, void const* global, int32_t bytes, ReadKind kind)
{
    constexpr uint32_t kCopyBytes = 16;
    Fiber& actor = *block.current;
    if (!fast.checked && reachesShared(shared, kCopyBytes) && bytes >= 0 && bytes <= 16)
    {
        unsigned char* const target = fast.shared + (shared - kSharedBase);
        std::memset(target, 0, kCopyBytes);
        if (bytes > 0)
        {
            std::memcpy(target, global, static_cast<size_t>(bytes));
        }
        return;
    }
    if (bytes < 0 || bytes > 16)
    {
        report(Fault::kBadArgument, actor, "a copy's size", "copies " + std::to_string(bytes) + " bytes; a copy reads 0 to 16");
        return;
    }
    if (!valid(actor, "copies to", shared, kCopyBytes))
    {
        return;
    }
    Copy copy{shared - kSharedBase, actor.groups, {}};
    readSource(actor, copy.data, global, bytes, kind);
    trackWrite(actor, "starts a copy to", copy.offset, kCopyBytes);
    for (uint32_t i = copy.offset / kCellBytes; i < (copy.offset + kCopyBytes) / kCellBytes; ++i)
    {
        cells[i].copier = static_cast<int16_t>(actor.thread);
    }
    actor.copies.push_back(copy);
}

void cpAsyncCommitGroup()
{
    ++block.current->groups;
}

void cpAsyncWaitGroup(int32_t pending)
{
    land(*block.current, static_cast<uint32_t>(pending));
}

void checkCopiesAtExit(Fiber const& actor)
{
    if (actor.copies.empty())
    {
        return;
    }
    bool const open = actor.copies.front().group == actor.groups;
    report(Fault::kCopyNotWaitedFor, actor, kThing,
        "ends with " + std::to_string(actor.copies.size()) + " copies under way, the first to offset "
            + std::to_string(actor.copies.front().offset) + " of shared memory"
            + (open ? ", whose group it never closed" : "; it must wait for all groups"));
}

} // namespace lccl::emulator
