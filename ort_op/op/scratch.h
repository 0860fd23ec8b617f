// Memory for calls, shared by all nodes of all sessions; the buffer that was given back last, still
// in the caches, goes first.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace lccl::ort
{

//! Memory aligned to 64 bytes; empty for a size of 0.
class Buffer
{
public:
    Buffer() = default;

    //! \throw std::bad_alloc
    explicit Buffer(size_t bytes);

    char* data() const
    {
        return mData.get();
    }

    size_t size() const
    {
        return mSize;
    }

private:
    struct Free
    {
        void operator()(char* data) const;
    };

    std::unique_ptr<char, Free> mData;
    size_t mSize{0};
};

//! Buffers that no call uses. There are as many as calls ran at once, each as large as its last use
//! needed.
class Scratch
{
public:
    //! A buffer of at least that size, for the caller alone.
    //! \throw std::bad_alloc
    Buffer take(size_t bytes);

    void giveBack(Buffer buffer) noexcept;

    //! Counts the nodes that may take buffers; with the last one the memory is freed.
    void addUser();
    void removeUser() noexcept;

private:
    std::mutex mMutex;
    std::vector<Buffer> mFree;
    size_t mUsers{0};
};

//! The scratch memory of this library.
Scratch& scratch();

//! A buffer for one call.
class Borrowed
{
public:
    //! \throw std::bad_alloc
    explicit Borrowed(size_t bytes)
        : mBuffer(scratch().take(bytes))
    {
    }

    ~Borrowed()
    {
        scratch().giveBack(std::move(mBuffer));
    }

    Borrowed(Borrowed const&) = delete;
    Borrowed& operator=(Borrowed const&) = delete;

    char* data() const
    {
        return mBuffer.data();
    }

private:
    Buffer mBuffer;
};

} // namespace lccl::ort
