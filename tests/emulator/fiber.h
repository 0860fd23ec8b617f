// Fibers: stacks of their own that hand the CPU to each other by a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

// LCCL_EMULATOR_UCONTEXT asks for the portable switch, which makes system calls, on every CPU.
#if defined(__x86_64__) && defined(__ELF__) && !defined(LCCL_EMULATOR_UCONTEXT)
#define LCCL_EMULATOR_ASSEMBLY 1
#else
#define LCCL_EMULATOR_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace lccl::emulator
{

//! Where a fiber that does not run goes on.
struct Context
{
#if LCCL_EMULATOR_ASSEMBLY
    void* stackPointer = nullptr;
#else
    ucontext_t saved{};
#endif
};

constexpr size_t kStackBytes = 64 * 1024;

//! Stacks of equal size, reused by every block.
class Stacks
{
public:
    //! Makes room for `count` stacks; those that exist keep their place only if they are enough.
    void reserve(int32_t count);

    //! Makes a context that starts `body` on stack `index`; `body` must not return.
    void prepare(int32_t index, Context& context, void (*body)());

    //! False if the stack was used to its last bytes: then its neighbour's may be overwritten.
    bool intact(int32_t index) const;

private:
    unsigned char* bottom(int32_t index) const;

    std::unique_ptr<unsigned char[]> mMemory;
    int32_t mCount = 0;
};

//! Goes on with `to`; returns when someone switches to `from`.
void switchContext(Context& from, Context& to);

} // namespace lccl::emulator
