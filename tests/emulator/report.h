// What the emulator found, in sentences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lccl::emulator
{

enum class Fault
{
    kOutOfBounds,
    kMisaligned,
    kUninitialised,
    kReadOnly,
    kWrittenTwice,
    kNotWritten,
    kOverwritten,
    kNotOwned,
    kStale,
    kMissingFence,
    kTwoBlocks,
    kRace,
    kCopyUnderWay,
    kCopyNotWaitedFor,
    kDivergence,
    kStackOverflow,
    kBadArgument,
    kBadRegistration
};

//! The words that a sentence about it starts with.
char const* nameOf(Fault fault);

class Report
{
public:
    void clear();

    //! Adds a sentence, or counts once more the one with the same fault, kernel and `thing` (a
    //! tensor, shared memory).
    //! \param where "block 3, thread 17", or empty
    void add(
        Fault fault, std::string const& kernel, std::string const& where, std::string const& thing, std::string const& words);

    //! Different faults.
    int32_t count() const;

    //! The first faults, a line each.
    std::string text() const;

private:
    struct Entry
    {
        Fault fault;
        std::string kernel;
        std::string thing;
        std::string sentence;
        int64_t times;
    };
    std::vector<Entry> mEntries;
};

} // namespace lccl::emulator
