// The emulated machine takes the host's memory, and its calls are done when they return.

#include "device.h"

#include <cstdlib>
#include <cstring>

namespace host
{
namespace
{
constexpr size_t kAlignment = 256;
}

void requireDevice() {}

Memory::Memory(size_t bytes)
    : mAllocation(std::malloc(bytes + kAlignment))
    , mBegin(nullptr)
    , mBytes(bytes)
{
    auto const address = reinterpret_cast<uintptr_t>(mAllocation);
    mBegin = static_cast<unsigned char*>(mAllocation) + (kAlignment - address % kAlignment) % kAlignment;
}

Memory::Memory(Memory&& other) noexcept
    : mAllocation(other.mAllocation)
    , mBegin(other.mBegin)
    , mBytes(other.mBytes)
{
    other.mAllocation = nullptr;
}

Memory::~Memory()
{
    std::free(mAllocation);
}

void Memory::write(Bytes const& bytes)
{
    std::memcpy(mBegin, bytes.data(), bytes.size());
}

void Memory::fill(unsigned char value)
{
    std::memset(mBegin, value, mBytes);
}

Bytes Memory::read(size_t bytes) const
{
    auto const* const begin = static_cast<unsigned char const*>(mBegin);
    return {begin, begin + bytes};
}

Stream::Stream() = default;
Stream::~Stream() = default;

void Stream::wait() {}

bool Stream::runCaptured(std::function<void()> const&)
{
    return false;
}

} // namespace host
