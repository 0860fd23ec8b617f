// The C interface of the emulated machine: begin, register, finish.

#include "session.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace lccl::emulator
{

Session session;

uint32_t Random::next(uint32_t below)
{
    mState += 0x9e3779b97f4a7c15U;
    uint64_t z = mState;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    z ^= z >> 31;
    return static_cast<uint32_t>((z >> 32) * below >> 32);
}

Region* Session::find(uintptr_t address)
{
    auto const behind = std::upper_bound(
        regions.begin(), regions.end(), address, [](uintptr_t value, Region const& region) { return value < region.begin; });
    if (behind == regions.begin() || address >= (behind - 1)->end)
    {
        return nullptr;
    }
    return &*(behind - 1);
}

void report(Fault fault, Fiber const& actor, std::string const& thing, std::string const& words)
{
    session.report.add(
        fault, block.kernel, "block " + std::to_string(block.index) + ", thread " + std::to_string(actor.thread), thing, words);
}

void report(Fault fault, std::string const& words)
{
    session.report.add(fault, block.kernel, "", words, words);
}

namespace
{

bool reject(std::string const& words)
{
    session.report.add(Fault::kBadRegistration, "", "", words, words);
    return false;
}

bool registerRegion(uintptr_t begin, size_t bytes, int32_t access, std::string const& name)
{
    if (access < LCCL_EMULATOR_READ_ONLY || access > LCCL_EMULATOR_SCRATCH)
    {
        return reject(name + " has access " + std::to_string(access) + "; it must be a value of lccl_emulator_access");
    }
    if (bytes == 0)
    {
        return true;
    }
    if (begin % kGlobalCellBytes != 0 || begin == 0)
    {
        return reject(name + " starts at an odd address or at null; tensors start at even addresses");
    }
    for (Region const& other : session.regions)
    {
        if (begin < other.end && other.begin < begin + bytes)
        {
            return reject(name + " overlaps " + other.name + "; register memory once");
        }
    }
    GlobalCell* cells = nullptr;
    if (access != LCCL_EMULATOR_READ_ONLY && fast.checked)
    {
        // From calloc, so that cells that are never touched cost no memory.
        cells = static_cast<GlobalCell*>(std::calloc((bytes + kGlobalCellBytes - 1) / kGlobalCellBytes, sizeof(GlobalCell)));
        if (cells == nullptr)
        {
            return reject(name + " is too large to be tracked; run it unchecked");
        }
    }
    Region region{name, begin, begin + bytes, static_cast<lccl_emulator_access>(access), {cells, &std::free}};
    auto const place = std::find_if(
        session.regions.begin(), session.regions.end(), [begin](Region const& other) { return other.begin > begin; });
    session.regions.insert(place, std::move(region));
    return true;
}

//! Every byte of a complete output must have been written.
void checkComplete(Region const& region)
{
    size_t const cells = (region.end - region.begin + kGlobalCellBytes - 1) / kGlobalCellBytes;
    size_t missing = 0;
    size_t first = 0;
    for (size_t i = 0; i < cells; ++i)
    {
        if (region.cells[i].writeRun == 0)
        {
            first = missing == 0 ? i : first;
            ++missing;
        }
    }
    if (missing > 0)
    {
        session.report.add(Fault::kNotWritten, "", "", region.name,
            std::to_string(missing * kGlobalCellBytes) + " bytes of " + region.name
                + " were never written, the first at offset " + std::to_string(first * kGlobalCellBytes));
    }
}

} // namespace
} // namespace lccl::emulator

void lccl_emulator_begin(uint64_t seed, int32_t checked)
{
    using namespace lccl::emulator;
    session.random = Random(seed);
    session.report.clear();
    session.regions.clear();
    session.failed = false;
    block.run = 0;
    fast.checked = checked != 0;
}

int32_t lccl_emulator_register(void const* address, size_t bytes, int32_t access, char const* name)
{
    using namespace lccl::emulator;
    return registerRegion(reinterpret_cast<uintptr_t>(address), bytes, access, name == nullptr ? "unnamed memory" : name) ? 1
                                                                                                                          : 0;
}

int32_t lccl_emulator_finish(char* report, size_t size)
{
    using namespace lccl::emulator;
    if (fast.checked && !session.failed) // After a failure the rest of the output is missing, which says nothing new.
    {
        for (Region const& region : session.regions)
        {
            if (region.complete())
            {
                checkComplete(region);
            }
        }
    }
    session.regions.clear();
    fast.checked = false; // As before begin: later calls name no memory.
    session.failed = false;
    if (report != nullptr && size > 0)
    {
        std::string const text = session.report.text();
        size_t const length = std::min(text.size(), size - 1);
        std::memcpy(report, text.data(), length);
        report[length] = '\0';
    }
    return session.report.count();
}
