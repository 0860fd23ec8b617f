// Memory for calls, shared by all nodes of all sessions: the buffer that was given back last is still in the caches.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace lccl::ort
{

//! Aligned to 64 bytes; empty where there are no bytes.
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

//! Buffers that nobody uses. There come to be as many as calls ran at once, each as large as what it was needed for.
class Scratch
{
public:
    //! A buffer of at least that size, for the caller alone.
    //! \throw std::bad_alloc
    Buffer take(size_t bytes);

    void giveBack(Buffer buffer) noexcept;

    //! Nodes that may take buffers: with the last one the memory goes.
    void addUser();
    void removeUser() noexcept;

private:
    std::mutex mMutex;
    std::vector<Buffer> mFree;
    size_t mUsers{0};
};

//! The one of this library.
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
