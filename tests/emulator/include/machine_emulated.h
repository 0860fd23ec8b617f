// The machine of machine.h on a CPU: every lane is a fiber, every access goes through the
// emulator's checks.
#pragma once

#include "machine.h"

#include "../engine.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <typeinfo>

namespace lccl::machine
{

inline int32_t threadIndex()
{
    return emulator::threadIndex();
}

inline int32_t blockIndex()
{
    return emulator::blockIndex();
}

inline int32_t gridSize()
{
    return emulator::gridSize();
}

inline void syncThreads()
{
    emulator::syncThreads();
}

inline void syncWarp()
{
    emulator::syncWarp();
}

//! Orders this thread's earlier global accesses before its later ones, for all threads of the
//! device.
inline void fenceDevice()
{
    if (emulator::fast.checked)
    {
        emulator::fenceDevice();
    }
}

// ---- conversions -------------------------------------------------------------------------------

inline uint32_t bitsOfFloat(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float floatFromBits(uint32_t bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline float toFloat(float value)
{
    return value;
}

inline float toFloat(Half value)
{
    return emulator::floatOfHalf(value.bits);
}

inline float toFloat(Bfloat16 value)
{
    return floatFromBits(static_cast<uint32_t>(value.bits) << 16);
}

//! Rounds to nearest even; overflow gives infinity.
template <typename T>
T fromFloat(float value);

template <>
inline float fromFloat<float>(float value)
{
    return value;
}

template <>
inline Half fromFloat<Half>(float value)
{
    return Half{emulator::halfOfFloat(value)};
}

template <>
inline Bfloat16 fromFloat<Bfloat16>(float value)
{
    uint32_t const bits = bitsOfFloat(value);
    if ((bits & 0x7fffffffU) > 0x7f800000U)
    {
        return Bfloat16{0x7fff}; // Rounding could carry a NaN's bits into an infinity.
    }
    return Bfloat16{static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

//! Two elements in a word, the first in its lower half.
template <typename T>
uint32_t packPair(float first, float second)
{
    return static_cast<uint32_t>(fromFloat<T>(second).bits) << 16 | fromFloat<T>(first).bits;
}

// ---- global memory -----------------------------------------------------------------------------

//! A value that is read by one instruction.
template <typename T>
T loadThrough(T const* address, emulator::ReadKind kind)
{
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "no such access on a GPU");
    T value;
    if (emulator::fast.checked)
    {
        emulator::readGlobal(&value, address, sizeof(T), kind);
    }
    else
    {
        std::memcpy(&value, static_cast<void const*>(address), sizeof(T));
    }
    return value;
}

//! A value of up to 16 bytes that other blocks of this launch may have written (cached in L2 only).
template <typename T>
T loadGlobal(T const* address)
{
    return loadThrough(address, emulator::ReadKind::kGlobal);
}

//! A value of up to 16 bytes that nobody writes during this launch.
template <typename T>
T loadConstant(T const* address)
{
    return loadThrough(address, emulator::ReadKind::kConstant);
}

//! A value that this thread alone reads and later writes (a residual that is the output itself): a
//! plain load.
template <typename T>
T loadOwned(T const* address)
{
    return loadThrough(address, emulator::ReadKind::kOwned);
}

template <typename T>
void storeGlobal(T* address, T value)
{
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "no such access on a GPU");
    if (emulator::fast.checked)
    {
        emulator::writeGlobal(address, &value, sizeof(T));
    }
    else
    {
        std::memcpy(static_cast<void*>(address), &value, sizeof(T));
    }
}

//! The value before the addition.
inline int32_t atomicAddGlobal(int32_t* address, int32_t value)
{
    return emulator::addGlobal(address, value);
}

// ---- shared memory -----------------------------------------------------------------------------

//! The address of the block's dynamic shared memory, aligned to 128 bytes.
inline uint32_t sharedBase()
{
    return emulator::kSharedBase;
}

//! T of 4, 8 or 16 bytes.
template <typename T>
T loadShared(uint32_t address)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "T has 4, 8 or 16 bytes");
    T value;
    if (emulator::reachesShared(address, sizeof(T)))
    {
        std::memcpy(&value, emulator::fast.shared + (address - emulator::kSharedBase), sizeof(T));
    }
    else
    {
        emulator::readShared(&value, address, sizeof(T));
    }
    return value;
}

template <typename T>
void storeShared(uint32_t address, T value)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "T has 4, 8 or 16 bytes");
    if (emulator::reachesShared(address, sizeof(T)))
    {
        std::memcpy(emulator::fast.shared + (address - emulator::kSharedBase), &value, sizeof(T));
    }
    else
    {
        emulator::writeShared(address, &value, sizeof(T));
    }
}

//! cp.async.ca: starts a copy of 16 bytes, of which the first `bytes` are read and the others
//! become zero; cached in L1 and L2.
inline void cpAsyncCa16(uint32_t shared, void const* global, int32_t bytes)
{
    emulator::startCopy(shared, global, bytes, emulator::ReadKind::kCpAsyncCa);
}

//! cp.async.cg: the same, cached in L2 only.
inline void cpAsyncCg16(uint32_t shared, void const* global, int32_t bytes)
{
    emulator::startCopy(shared, global, bytes, emulator::ReadKind::kCpAsyncCg);
}

//! cp.async.commit_group: closes the group of this thread's copies since the last call; it may be
//! empty.
inline void cpAsyncCommitGroup()
{
    if (emulator::fast.checked)
    {
        emulator::cpAsyncCommitGroup();
    }
}

//! cp.async.wait_group: waits until at most `kPending` of this thread's newest groups are under
//! way.
template <int32_t kPending>
void cpAsyncWaitGroup()
{
    static_assert(kPending >= 0, "a number of groups");
    if (emulator::fast.checked)
    {
        emulator::cpAsyncWaitGroup(kPending);
    }
}

// ---- warps -------------------------------------------------------------------------------------

//! The value of the lane whose number differs by `mask`; all lanes take part.
inline float shuffleXor(float value, int32_t mask)
{
    return floatFromBits(emulator::shuffleXor(emulator::Operation::kShuffleFloat, bitsOfFloat(value), mask));
}

inline int32_t shuffleXor(int32_t value, int32_t mask)
{
    return static_cast<int32_t>(emulator::shuffleXor(emulator::Operation::kShuffleInt, static_cast<uint32_t>(value), mask));
}

//! The value of lane `source`, which may differ from lane to lane; all lanes take part.
inline int32_t shuffle(int32_t value, int32_t source)
{
    int32_t const mask = source ^ (emulator::threadIndex() % kWarpSize);
    return static_cast<int32_t>(emulator::shuffleXor(emulator::Operation::kShuffleLane, static_cast<uint32_t>(value), mask));
}

//! Bit i: whether the condition holds in lane i; all lanes take part.
inline uint32_t ballot(bool condition)
{
    return emulator::ballot(condition);
}

inline int32_t popcount(uint32_t bits)
{
    return __builtin_popcount(bits);
}

//! ldmatrix.x4: loads four 8x8 matrices of 16-bit elements; lanes 8i to 8i+7 hold the addresses of
//! matrix i's rows.
inline void ldmatrixX4(uint32_t (&fragment)[4], uint32_t address)
{
    emulator::ldmatrixX4(fragment, address);
}

//! mma.m16n8k16: c[16x8] += a[16x16] * b[16x8], with float32 sums.
template <typename T>
void mmaM16N8K16(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1);

template <>
inline void mmaM16N8K16<Half>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    emulator::mmaM16N8K16(emulator::Operation::kMmaHalf, c, a, b0, b1);
}

template <>
inline void mmaM16N8K16<Bfloat16>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    emulator::mmaM16N8K16(emulator::Operation::kMmaBfloat16, c, a, b0, b1);
}

// ---- starting kernels --------------------------------------------------------------------------

template <typename Kernel, typename Arguments>
void entry(void const* arguments)
{
    Kernel::run(*static_cast<Arguments const*>(arguments));
}

//! There is nothing to load.
template <typename Kernel, typename Arguments>
cudaError_t load()
{
    return cudaSuccess;
}

//! Runs a kernel to its end. cudaErrorInvalidConfiguration: no such grid or shared memory;
//! cudaErrorLaunchFailure: a fault that a kernel cannot go on from, also for every launch after it.
template <typename Kernel, typename Arguments>
cudaError_t launch(Arguments const& arguments, int32_t blocks, int32_t sharedBytes, cudaStream_t)
{
    static_assert(Kernel::kThreads % kWarpSize == 0 && Kernel::kThreads > 0 && Kernel::kThreads <= emulator::kMaxThreads,
        "a block has whole warps and at most 1024 threads");
    return emulator::runGrid(
        {typeid(Kernel).name(), &entry<Kernel, Arguments>, &arguments, Kernel::kThreads, blocks, sharedBytes});
}

} // namespace lccl::machine
