// Faults as sentences, each told once.

#include "report.h"

namespace lccl::emulator
{

char const* nameOf(Fault fault)
{
    switch (fault)
    {
    case Fault::kOutOfBounds: return "out of bounds";
    case Fault::kMisaligned: return "misaligned";
    case Fault::kUninitialised: return "uninitialised";
    case Fault::kReadOnly: return "read-only";
    case Fault::kWrittenTwice: return "written twice";
    case Fault::kNotWritten: return "not written";
    case Fault::kOverwritten: return "overwritten";
    case Fault::kNotOwned: return "not owned";
    case Fault::kStale: return "stale";
    case Fault::kMissingFence: return "missing fence";
    case Fault::kTwoBlocks: return "two blocks";
    case Fault::kRace: return "race";
    case Fault::kCopyUnderWay: return "copy under way";
    case Fault::kCopyNotWaitedFor: return "copy not waited for";
    case Fault::kDivergence: return "divergence";
    case Fault::kStackOverflow: return "stack overflow";
    case Fault::kBadArgument: return "bad argument";
    case Fault::kBadRegistration: return "bad registration";
    }
    return "fault";
}

void Report::clear()
{
    mEntries.clear();
}

void Report::add(
    Fault fault, std::string const& kernel, std::string const& where, std::string const& thing, std::string const& words)
{
    for (Entry& entry : mEntries)
    {
        if (entry.fault == fault && entry.kernel == kernel && entry.thing == thing)
        {
            ++entry.times;
            return;
        }
    }
    std::string sentence = std::string(nameOf(fault)) + ": ";
    sentence += kernel.empty() ? "" : kernel + ", ";
    sentence += where.empty() ? "" : where + ": ";
    mEntries.push_back({fault, kernel, thing, sentence + words, 1});
}

int32_t Report::count() const
{
    return static_cast<int32_t>(mEntries.size());
}

std::string Report::text() const
{
    constexpr size_t kMostLines = 20;
    std::string text;
    for (size_t i = 0; i < mEntries.size() && i < kMostLines; ++i)
    {
        Entry const& entry = mEntries[i];
        text += entry.sentence;
        text += entry.times > 1 ? " (" + std::to_string(entry.times) + " times)\n" : "\n";
    }
    if (mEntries.size() > kMostLines)
    {
        text += "and " + std::to_string(mEntries.size() - kMostLines) + " more\n";
    }
    return text;
}

} // namespace lccl::emulator
