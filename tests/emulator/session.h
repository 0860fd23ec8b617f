// What lies between begin and finish: the seed, the memory that kernels may reach, and the report.
#pragma once

#include "block.h"
#include "emulator.h"
#include "report.h"

#include <memory>
#include <vector>

namespace lccl::emulator
{

//! Who last wrote and read two bytes of global memory. Runs are numbers of Block::run; 0: nobody.
struct GlobalCell
{
    uint32_t writeRun;
    uint32_t writeTick;
    uint16_t writer;
    uint16_t writerFences;
    uint32_t readRun;
    uint32_t readTick;
    uint16_t reader;
    uint8_t readers;     //!< Readers of shadow.h
    bool atomic;         //!< Whether the write was an atomic addition.
    bool readAsConstant; //!< Through the constant path, in the launch of readRun.
};
constexpr uint32_t kGlobalCellBytes = 2;

//! A registered tensor.
struct Region
{
    std::string name;
    uintptr_t begin;
    uintptr_t end;
    lccl_emulator_access access;
    std::unique_ptr<GlobalCell[], void (*)(void*)> cells; //!< Null if read-only.

    bool output() const
    {
        return access != LCCL_EMULATOR_READ_ONLY && access != LCCL_EMULATOR_SCRATCH;
    }
    bool inPlace() const
    {
        return access == LCCL_EMULATOR_IN_PLACE || access == LCCL_EMULATOR_COMPLETE_IN_PLACE;
    }
    bool complete() const
    {
        return access == LCCL_EMULATOR_COMPLETE_OUTPUT || access == LCCL_EMULATOR_COMPLETE_IN_PLACE;
    }
};

//! Random numbers that are the same everywhere (splitmix64).
class Random
{
public:
    explicit Random(uint64_t seed)
        : mState(seed)
    {
    }

    //! From 0 to below - 1.
    uint32_t next(uint32_t below);

private:
    uint64_t mState;
};

struct Session
{
    Random random{0};
    Report report;
    std::vector<Region> regions; //!< By address.
    bool failed = false;         //!< A kernel could not go on; launches are refused.

    //! The region that holds an address, else null.
    Region* find(uintptr_t address);
};
extern Session session;

//! An atomic addition lets other blocks know of what the block's threads wrote before their fences.
void recordCount(Fiber& actor);

//! Whether the writer of a cell, a thread of another block, called a fence after it that an
//! addition of its block followed.
bool isReleased(GlobalCell const& cell);

//! Whether a thread may read what other blocks have released: after an addition of its block and a
//! fence.
bool hasAcquired(Fiber const& actor);

//! Reports what a thread of the running block did.
void report(Fault fault, Fiber const& actor, std::string const& thing, std::string const& words);

//! Reports what concerns the running kernel as a whole.
void report(Fault fault, std::string const& words);

} // namespace lccl::emulator
