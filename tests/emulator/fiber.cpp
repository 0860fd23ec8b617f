// The switch between fibers, and their stacks.

#include "fiber.h"

#include <cstring>

#if LCCL_EMULATOR_ASSEMBLY
// Saves what a System V callee must keep but for the floating-point modes, which no kernel changes.
asm(R"(
    .text
    .globl lcclEmulatorSwitch
    .hidden lcclEmulatorSwitch
    .type lcclEmulatorSwitch, @function
lcclEmulatorSwitch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size lcclEmulatorSwitch, .-lcclEmulatorSwitch
)");

extern "C" void lcclEmulatorSwitch(void** saved, void* stackPointer);
#endif

namespace lccl::emulator
{
namespace
{

//! Distance of two stacks. Not a power of two: their tops, which are in use, would share a few sets
//! of the caches.
constexpr size_t kStackPitch = kStackBytes + 17 * 64;
constexpr uint64_t kGuard = 0x5afe57ac6bad0b0eU;
constexpr size_t kGuardBytes = 256;

} // namespace

void Stacks::reserve(int32_t count)
{
    if (count > mCount)
    {
        // Not initialised, so that what no fiber touches costs no memory. One more below: an
        // overflow of the first hits nobody.
        mMemory.reset(new unsigned char[(static_cast<size_t>(count) + 1) * kStackPitch + 64]);
        mCount = count;
    }
}

unsigned char* Stacks::bottom(int32_t index) const
{
    auto const address = reinterpret_cast<uintptr_t>(mMemory.get());
    return mMemory.get() + (64 - address % 64) % 64 + (static_cast<size_t>(index) + 1) * kStackPitch;
}

void Stacks::prepare(int32_t index, Context& context, void (*body)())
{
    unsigned char* const lowest = bottom(index);
    for (size_t i = 0; i < kGuardBytes; i += sizeof(kGuard))
    {
        std::memcpy(lowest + i, &kGuard, sizeof(kGuard));
    }
#if LCCL_EMULATOR_ASSEMBLY
    // As the switch leaves a stack: six registers, the address to return to, and above it the one
    // `body` would return to.
    constexpr size_t kSavedRegisters = 6;
    auto* const top = reinterpret_cast<void**>(lowest + kStackBytes);
    void** const stackPointer = top - 2 - kSavedRegisters;
    std::memset(stackPointer, 0, (2 + kSavedRegisters) * sizeof(void*));
    stackPointer[kSavedRegisters] = reinterpret_cast<void*>(body);
    context.stackPointer = stackPointer;
#else
    getcontext(&context.saved);
    context.saved.uc_stack.ss_sp = lowest;
    context.saved.uc_stack.ss_size = kStackBytes;
    context.saved.uc_link = nullptr;
    makecontext(&context.saved, body, 0);
#endif
}

bool Stacks::intact(int32_t index) const
{
    unsigned char const* const lowest = bottom(index);
    for (size_t i = 0; i < kGuardBytes; i += sizeof(kGuard))
    {
        if (std::memcmp(lowest + i, &kGuard, sizeof(kGuard)) != 0)
        {
            return false;
        }
    }
    return true;
}

void switchContext(Context& from, Context& to)
{
#if LCCL_EMULATOR_ASSEMBLY
    lcclEmulatorSwitch(&from.stackPointer, to.stackPointer);
#else
    swapcontext(&from.saved, &to.saved);
#endif
}

} // namespace lccl::emulator
