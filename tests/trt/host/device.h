// Where tensors lie and calls run: the host's memory for the emulated machine, or a GPU's.
#pragma once

#include "case_file.h"

#include <cuda_runtime_api.h>
#include <functional>

namespace host
{

//! \throw std::runtime_error if nothing runs calls
void requireDevice();

//! Memory that starts at a multiple of 256 bytes and never has none.
class Memory
{
public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(Memory&& other) noexcept;
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;

    void* get() const
    {
        return mBegin;
    }

    void write(Bytes const& bytes);

    //! Sets every byte.
    void fill(unsigned char value);

    Bytes read(size_t bytes) const;

private:
    void* mAllocation;
    void* mBegin;
    size_t mBytes;
};

//! A stream of its own; null on the emulated machine.
class Stream
{
public:
    Stream();
    ~Stream();
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;

    cudaStream_t get() const
    {
        return mStream;
    }

    void wait();

    //! Captures what `enqueue` does into a graph and runs that; false where there are no graphs.
    bool runCaptured(std::function<void()> const& enqueue);

private:
    cudaStream_t mStream{nullptr};
};

} // namespace host
