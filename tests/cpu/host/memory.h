// Memory that tells when a call leaves it.
#pragma once

#include "case_file.h"

#include <cstddef>

namespace host
{

//! Bytes on the heap, or with a page behind or before them that nobody may touch. What lies around
//! them in their own pages is filled with kPoison, so that a read there shows in the result and a
//! write is found by intact().
class Memory
{
public:
    //! \param alignment of the first byte: 4, or 64, for which up to 60 bytes may lie between the
    //! memory and the page behind it.
    //! \throw std::bad_alloc
    Memory(size_t bytes, size_t alignment, int32_t placement);
    ~Memory();
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;

    void* data() const
    {
        return mData;
    }
    //! Fills the memory itself with copies of a word.
    void fill(uint32_t word);
    //! Whoever writes from now on ends the process; on the heap, nothing.
    void protect();
    bool intact() const;

private:
    void map(size_t bytes, size_t alignment, int32_t placement);

    unsigned char* mBegin{}; //!< Of what may be touched.
    size_t mSize{};          //!< Of what may be touched; 0 on the heap.
    size_t mBytes;
    unsigned char* mData{};
    void* mHeap{};
};

} // namespace host
