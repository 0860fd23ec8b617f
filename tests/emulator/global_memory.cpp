// Global memory: bounds, rights, first writes, and what threads and blocks of one launch do to each
// other.

#include "session.h"
#include "shadow.h"

#include <algorithm>
#include <cstring>

namespace lccl::emulator
{
namespace
{

bool sameLaunch(uint32_t run)
{
    return run >= block.firstRun;
}

std::string threadOf(uint32_t run, int32_t thread)
{
    std::string const words = "thread " + std::to_string(thread);
    return run == block.run ? words : words + " of block " + std::to_string(block.order[run - block.firstRun]);
}

std::string writerOf(GlobalCell const& cell)
{
    return ", which " + (sameLaunch(cell.writeRun) ? threadOf(cell.writeRun, cell.writer) : "an earlier launch");
}

std::string readerOf(GlobalCell const& cell)
{
    return ", which " + threadOf(cell.readRun, cell.reader);
}

//! An access of a thread to a region.
struct Access
{
    Fiber const& actor;
    char const* does;
    Region& region;
    uint32_t offset;
    uint32_t bytes;

    void report(Fault fault, std::string const& words) const
    {
        emulator::report(fault, actor, region.name,
            std::string(does) + " " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of "
                + region.name + words);
    }
    //! The cells that it touches.
    GlobalCell* begin() const
    {
        return region.cells.get() + offset / kGlobalCellBytes;
    }
    GlobalCell* end() const
    {
        return region.cells.get() + (offset + bytes + kGlobalCellBytes - 1) / kGlobalCellBytes;
    }
};

//! Says where an address lies that no region holds to its last byte.
void reportOutside(Fiber const& actor, char const* does, uintptr_t address, uint32_t bytes)
{
    constexpr uintptr_t kNear = 1 << 20;
    std::string const what = std::string(does) + " " + std::to_string(bytes) + " bytes ";
    std::string where = "at an address that is near no registered memory";
    std::string thing = "no tensor";
    uintptr_t nearest = kNear;
    for (Region const& region : session.regions)
    {
        uintptr_t const distance = address < region.begin ? region.begin - address : address - std::min(address, region.end);
        if (distance < nearest)
        {
            nearest = distance;
            thing = region.name;
            where = address < region.begin ? std::to_string(distance) + " bytes before " + region.name
                                           : "at offset " + std::to_string(address - region.begin) + " of " + region.name
                    + ", which has " + std::to_string(region.end - region.begin) + " bytes";
        }
    }
    report(Fault::kOutOfBounds, actor, thing, what + where);
}

//! The region of an aligned access, else null after a report.
Region* locate(Fiber const& actor, char const* does, void const* pointer, uint32_t bytes, bool mustAlign)
{
    auto const address = reinterpret_cast<uintptr_t>(pointer);
    Region* const region = session.find(address);
    if (region == nullptr || bytes > region->end - address)
    {
        reportOutside(actor, does, address, bytes);
        return nullptr;
    }
    if (mustAlign && address % bytes != 0)
    {
        report(Fault::kMisaligned, actor, region->name,
            std::string(does) + " " + std::to_string(bytes) + " bytes at offset " + std::to_string(address - region->begin)
                + " of " + region->name + ", whose address is not a multiple of their number");
        return nullptr;
    }
    return region;
}

//! Checks a read of bytes that this launch wrote. \return false after a report
bool checkReadOfSameLaunch(Access const& access, GlobalCell const& cell, ReadKind kind)
{
    bool const sameRun = cell.writeRun == block.run;
    if (kind == ReadKind::kConstant || kind == ReadKind::kCpAsyncCa)
    {
        access.report(Fault::kStale, writerOf(cell) + " wrote in this launch; this path may hold what was there before");
        return false;
    }
    if (kind == ReadKind::kOwned && !(sameRun && cell.writer == access.actor.thread))
    {
        access.report(Fault::kNotOwned, writerOf(cell) + " wrote; loadOwned is for a thread's own bytes");
        return false;
    }
    if (cell.atomic)
    {
        return true;
    }
    if (sameRun && !happenedBefore(access.actor, cell.writer, cell.writeTick))
    {
        access.report(Fault::kRace, writerOf(cell) + " wrote with no barrier between");
        return false;
    }
    if (!sameRun && !isReleased(cell))
    {
        access.report(Fault::kMissingFence,
            writerOf(cell)
                + " wrote; it must call fenceDevice, and then its block must add to a counter, with a barrier between");
        return false;
    }
    if (!sameRun && !hasAcquired(access.actor))
    {
        access.report(Fault::kMissingFence,
            writerOf(cell) + " wrote; the reader must call fenceDevice after its block has added to a counter");
        return false;
    }
    return true;
}

bool checkRead(Access const& access, GlobalCell const& cell, ReadKind kind)
{
    if (cell.writeRun == 0)
    {
        if (access.region.inPlace())
        {
            return true;
        }
        access.report(Fault::kUninitialised, ", which nothing has written");
        return false;
    }
    if (access.region.inPlace())
    {
        access.report(Fault::kOverwritten, writerOf(cell) + " wrote; the residual was to be read before");
        return false;
    }
    return !sameLaunch(cell.writeRun) || checkReadOfSameLaunch(access, cell, kind);
}

void recordRead(GlobalCell& cell, Fiber const& actor, ReadKind kind)
{
    bool const first = cell.readRun == 0 || !sameLaunch(cell.readRun);
    bool const constant = kind == ReadKind::kConstant || kind == ReadKind::kCpAsyncCa;
    cell.readAsConstant = constant || (!first && cell.readAsConstant);
    if (first)
    {
        cell.readers = kNoReader;
    }
    else if (cell.readRun != block.run)
    {
        cell.readers = kSeveralBlocks;
    }
    recordReader(cell, actor);
    cell.readRun = block.run;
}

//! Checks that nobody in this launch has read, or may still be reading, bytes that are written.
bool checkReaders(Access const& access, GlobalCell const& cell, bool atomic)
{
    if (cell.readRun == 0 || !sameLaunch(cell.readRun))
    {
        return true;
    }
    if (cell.readAsConstant)
    {
        access.report(Fault::kStale, readerOf(cell) + " read in this launch through a path for what nobody writes");
        return false;
    }
    if (!atomic && (cell.readRun != block.run || cell.readers == kSeveralBlocks || !readersAreDone(cell, access.actor)))
    {
        access.report(Fault::kRace, readerOf(cell) + " read with no barrier between");
        return false;
    }
    return true;
}

bool checkWrite(Access const& access, GlobalCell const& cell)
{
    if (cell.writeRun != 0 && sameLaunch(cell.writeRun) && cell.writeRun != block.run)
    {
        access.report(Fault::kTwoBlocks, writerOf(cell) + " wrote in this launch");
        return false;
    }
    if (cell.writeRun != 0 && access.region.output())
    {
        access.report(Fault::kWrittenTwice, writerOf(cell) + " wrote already");
        return false;
    }
    if (cell.writeRun == block.run && !happenedBefore(access.actor, cell.writer, cell.writeTick))
    {
        access.report(Fault::kRace, writerOf(cell) + " wrote with no barrier between");
        return false;
    }
    return checkReaders(access, cell, false);
}

bool checkAtomic(Access const& access, GlobalCell const& cell)
{
    if (cell.writeRun == 0)
    {
        access.report(Fault::kUninitialised, ", which nothing has written");
        return false;
    }
    bool const plain = sameLaunch(cell.writeRun) && !cell.atomic;
    if (plain && !checkReadOfSameLaunch(access, cell, ReadKind::kGlobal))
    {
        return false;
    }
    return checkReaders(access, cell, true);
}

void recordWrite(GlobalCell& cell, Fiber const& actor, bool atomic)
{
    cell.writeRun = block.run;
    cell.writeTick = block.tick;
    cell.writer = static_cast<uint16_t>(actor.thread);
    cell.writerFences = static_cast<uint16_t>(actor.fences);
    cell.atomic = atomic;
}

} // namespace

void readGlobalBy(Fiber const& actor, void* value, void const* address, uint32_t bytes, ReadKind kind)
{
    bool const copy = kind == ReadKind::kCpAsyncCa || kind == ReadKind::kCpAsyncCg;
    char const* const does = copy ? "copies" : "reads";
    Region* const region = locate(actor, does, address, bytes, !copy);
    if (region == nullptr)
    {
        std::memset(value, 0, bytes);
        return;
    }
    std::memcpy(value, address, bytes);
    if (region->cells == nullptr)
    {
        return;
    }
    Access const access{
        actor, does, *region, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) - region->begin), bytes};
    for (GlobalCell& cell : access)
    {
        if (!checkRead(access, cell, kind))
        {
            return;
        }
        recordRead(cell, actor, kind);
    }
}

void readGlobal(void* value, void const* address, uint32_t bytes, ReadKind kind)
{
    readGlobalBy(*block.current, value, address, bytes, kind);
}

void writeGlobal(void* address, void const* value, uint32_t bytes)
{
    Fiber const& actor = *block.current;
    Region* const region = locate(actor, "writes", address, bytes, true);
    if (region == nullptr)
    {
        return;
    }
    Access const access{
        actor, "writes", *region, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) - region->begin), bytes};
    if (region->cells == nullptr)
    {
        access.report(Fault::kReadOnly, ", which kernels may only read");
        return;
    }
    bool right = true;
    for (GlobalCell& cell : access)
    {
        right = right && checkWrite(access, cell);
        recordWrite(cell, actor, false);
    }
    std::memcpy(address, value, bytes);
}

int32_t addGlobal(int32_t* address, int32_t value)
{
    int32_t before = 0;
    if (fast.checked)
    {
        Fiber& actor = *block.current;
        Region* const region = locate(actor, "adds to", address, sizeof(value), true);
        if (region == nullptr)
        {
            return before;
        }
        Access const access{actor, "adds to", *region,
            static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) - region->begin), sizeof(value)};
        if (region->cells == nullptr)
        {
            access.report(Fault::kReadOnly, ", which kernels may only read");
            return before;
        }
        bool right = true;
        for (GlobalCell& cell : access)
        {
            right = right && checkAtomic(access, cell);
            recordWrite(cell, actor, true);
        }
        recordCount(actor);
    }
    std::memcpy(&before, address, sizeof(before));
    int32_t const after = static_cast<int32_t>(static_cast<uint32_t>(before) + static_cast<uint32_t>(value));
    std::memcpy(address, &after, sizeof(after));
    return before;
}

} // namespace lccl::emulator
