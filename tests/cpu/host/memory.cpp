// Memory between guard pages, which end the program where a kernel reads or writes outside of a
// tensor.
#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace host
{
namespace
{

constexpr size_t kLine = 64;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kOff = 0; // AddressSanitizer watches what lies outside of the allocation only
#else
constexpr size_t kOff = 4; // the kernels may ask for no more than a float's alignment
#endif

size_t pageSize()
{
    static size_t const size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

unsigned char poisonAt(size_t index)
{
    return static_cast<unsigned char>(kPoison >> (index % 4 * 8));
}

} // namespace

Memory::Memory(size_t bytes, size_t alignment, int32_t placement)
    : mBytes(bytes)
{
    if (placement == kHeap)
    {
        size_t const off = alignment < kLine ? kOff : 0;
        if (posix_memalign(&mHeap, kLine, off + bytes + (off + bytes == 0)) != 0)
        {
            throw std::bad_alloc();
        }
        mData = static_cast<unsigned char*>(mHeap) + off;
        return;
    }
    map(bytes, alignment, placement);
}

void Memory::map(size_t bytes, size_t alignment, int32_t placement)
{
    size_t const page = pageSize();
    mSize = (bytes + page - 1) / page * page;
    void* const whole = mmap(nullptr, mSize + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole == MAP_FAILED)
    {
        throw std::bad_alloc();
    }
    mBegin = static_cast<unsigned char*>(whole) + page;
    if (mSize > 0 && mprotect(mBegin, mSize, PROT_READ | PROT_WRITE) != 0)
    {
        throw std::bad_alloc();
    }
    for (size_t i = 0; i < mSize; ++i)
    {
        mBegin[i] = poisonAt(i);
    }
    mData = placement == kStartsAtGuard ? mBegin : mBegin + (mSize - bytes) / alignment * alignment;
}

Memory::~Memory()
{
    if (mBegin != nullptr)
    {
        munmap(mBegin - pageSize(), mSize + 2 * pageSize());
    }
    std::free(mHeap);
}

void Memory::fill(uint32_t word)
{
    for (size_t i = 0; i + sizeof(word) <= mBytes; i += sizeof(word))
    {
        std::memcpy(mData + i, &word, sizeof(word));
    }
}

void Memory::protect()
{
    if (mSize > 0 && mprotect(mBegin, mSize, PROT_READ) != 0)
    {
        throw std::bad_alloc();
    }
}

bool Memory::intact() const
{
    size_t const before = mSize > 0 ? static_cast<size_t>(mData - mBegin) : 0;
    for (size_t i = 0; i < mSize; ++i)
    {
        if ((i < before || i >= before + mBytes) && mBegin[i] != poisonAt(i))
        {
            return false;
        }
    }
    return true;
}

} // namespace host
