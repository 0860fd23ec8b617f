// Keeps buffers between calls.
#include "scratch.h"

#include <cstdlib>
#include <new>

namespace lccl::ort
{
namespace
{

constexpr size_t kAlignment = 64;

} // namespace

Buffer::Buffer(size_t bytes)
{
    if (bytes == 0)
    {
        return;
    }
    size_t const rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    mData.reset(rounded < bytes ? nullptr : static_cast<char*>(std::aligned_alloc(kAlignment, rounded)));
    if (mData == nullptr)
    {
        throw std::bad_alloc();
    }
    mSize = rounded;
}

void Buffer::Free::operator()(char* data) const
{
    std::free(data);
}

Buffer Scratch::take(size_t bytes)
{
    {
        std::lock_guard<std::mutex> const lock(mMutex);
        if (!mFree.empty())
        {
            Buffer last = std::move(mFree.back());
            mFree.pop_back();
            if (last.size() >= bytes)
            {
                return last;
            }
        } // one that is too small is freed before a larger one is made
    }
    return Buffer(bytes);
}

void Scratch::giveBack(Buffer buffer) noexcept
{
    try
    {
        std::lock_guard<std::mutex> const lock(mMutex);
        if (mUsers > 0)
        {
            mFree.push_back(std::move(buffer));
        }
    }
    catch (...)
    {
        // No room to note it down: it is freed.
    }
}

void Scratch::addUser()
{
    std::lock_guard<std::mutex> const lock(mMutex);
    ++mUsers;
}

void Scratch::removeUser() noexcept
{
    std::vector<Buffer> freed;
    std::lock_guard<std::mutex> const lock(mMutex);
    if (--mUsers == 0)
    {
        freed.swap(mFree);
    }
}

Scratch& scratch()
{
    static Scratch& instance = *new Scratch; // never destroyed: sessions may outlive static objects
    return instance;
}

} // namespace lccl::ort
