// Reaches a logger whose class is another one in TensorRT 11 than in 10.
//
// In 10, ILogger and ILoggerFinder are plain classes: their one function is the first of their
// table. In 11 they are versioned interfaces: getAPILanguage, getInterfaceInfo and two destructors
// stand before it. So the place in the table follows from the version of the library that holds the
// finder, and neither is called through a class.

#include "logging.h"

#include "tensorrt_version.h"

#include <atomic>
#include <cstdio>

namespace lccl::plugin
{
namespace
{

constexpr int32_t kSLOT_IN_10 = 0;
constexpr int32_t kSLOT_IN_11 = 4;

//! A finder, and the place of findLogger in its table and of log in the logger's.
struct Finder
{
    void* object;
    int32_t slot;
};

std::atomic<Finder const*> theFinder{nullptr};

void* const* tableOf(void* object)
{
    return *static_cast<void* const* const*>(object);
}

//! False where there is no logger, or it throws.
bool logByFinder(Severity severity, char const* message) noexcept
{
    using FindLogger = void* (*)(void*);
    using Log = void (*)(void*, int32_t, char const*);
    Finder const* const finder = theFinder.load();
    if (finder == nullptr)
    {
        return false;
    }
    try
    {
        void* const logger = reinterpret_cast<FindLogger>(tableOf(finder->object)[finder->slot])(finder->object);
        if (logger == nullptr)
        {
            return false;
        }
        reinterpret_cast<Log>(tableOf(logger)[finder->slot])(logger, static_cast<int32_t>(severity), message);
        return true;
    }
    catch (...)
    {
        return false;
    }
}

} // namespace

void keepLoggerFinder(void* finder)
{
    int32_t const major = finder == nullptr ? 0 : majorVersionBehind(finder);
    if (major == 0)
    {
        return;
    }
    // The first one stays, for the life of the process: another TensorRT in it must not take the
    // messages away.
    static Finder const kept{finder, major < 11 ? kSLOT_IN_10 : kSLOT_IN_11};
    theFinder = &kept;
}

void log(Severity severity, std::string const& layer, std::string const& words) noexcept
{
    try
    {
        std::string const message = "LCCLConv" + (layer.empty() ? std::string{} : " " + layer) + ": " + words;
        if (!logByFinder(severity, message.c_str()) && severity != Severity::kVERBOSE)
        {
            std::fprintf(stderr, "%s\n", message.c_str());
        }
    }
    catch (...)
    {
        std::fputs("LCCLConv: out of memory while a message was written\n", stderr);
    }
}

} // namespace lccl::plugin
