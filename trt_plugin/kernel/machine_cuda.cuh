// The machine of machine.h on a GPU: PTX and intrinsics, no logic.
#pragma once

#include "machine.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace lccl::machine
{

LCCL_DEVICE int32_t threadIndex()
{
    return static_cast<int32_t>(threadIdx.x);
}

LCCL_DEVICE int32_t blockIndex()
{
    return static_cast<int32_t>(blockIdx.x);
}

LCCL_DEVICE int32_t gridSize()
{
    return static_cast<int32_t>(gridDim.x);
}

LCCL_DEVICE void syncThreads()
{
    __syncthreads();
}

LCCL_DEVICE void syncWarp()
{
    __syncwarp();
}

//! Orders this thread's earlier global accesses before its later ones, for all threads of the
//! device.
LCCL_DEVICE void fenceDevice()
{
    __threadfence();
}

// ---- conversions -------------------------------------------------------------------------------

LCCL_DEVICE float toFloat(float value)
{
    return value;
}

LCCL_DEVICE float toFloat(Half value)
{
    return __half2float(__ushort_as_half(value.bits));
}

LCCL_DEVICE float toFloat(Bfloat16 value)
{
    return __bfloat162float(__ushort_as_bfloat16(value.bits));
}

//! Rounds to nearest even; overflow gives infinity.
template <typename T>
LCCL_DEVICE T fromFloat(float value);

template <>
LCCL_DEVICE float fromFloat<float>(float value)
{
    return value;
}

template <>
LCCL_DEVICE Half fromFloat<Half>(float value)
{
    return Half{__half_as_ushort(__float2half_rn(value))};
}

template <>
LCCL_DEVICE Bfloat16 fromFloat<Bfloat16>(float value)
{
    return Bfloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}

//! Two elements in a word, the first in its lower half.
template <typename T>
LCCL_DEVICE uint32_t packPair(float first, float second);

template <>
LCCL_DEVICE uint32_t packPair<Half>(float first, float second)
{
    __half2 const pair = __floats2half2_rn(first, second);
    return static_cast<uint32_t>(__half_as_ushort(__high2half(pair))) << 16 | __half_as_ushort(__low2half(pair));
}

template <>
LCCL_DEVICE uint32_t packPair<Bfloat16>(float first, float second)
{
    __nv_bfloat162 const pair = __floats2bfloat162_rn(first, second);
    return static_cast<uint32_t>(__bfloat16_as_ushort(__high2bfloat16(pair))) << 16
        | __bfloat16_as_ushort(__low2bfloat16(pair));
}

LCCL_DEVICE float floatFromBits(uint32_t bits)
{
    return __uint_as_float(bits);
}

LCCL_DEVICE uint32_t bitsOfFloat(float value)
{
    return __float_as_uint(value);
}

// ---- global memory -----------------------------------------------------------------------------

//! A value of up to 16 bytes that other blocks of this launch may have written (cached in L2 only).
template <typename T>
LCCL_DEVICE T loadGlobal(T const* address)
{
    return __ldcg(address);
}

template <>
LCCL_DEVICE Vec16 loadGlobal<Vec16>(Vec16 const* address)
{
    uint4 const v = __ldcg(reinterpret_cast<uint4 const*>(address));
    return Vec16{{v.x, v.y, v.z, v.w}};
}

//! A value of up to 16 bytes that nobody writes during this launch.
template <typename T>
LCCL_DEVICE T loadConstant(T const* address)
{
    return __ldg(address);
}

template <>
LCCL_DEVICE Half loadConstant<Half>(Half const* address)
{
    return Half{__ldg(reinterpret_cast<unsigned short const*>(address))};
}

template <>
LCCL_DEVICE Bfloat16 loadConstant<Bfloat16>(Bfloat16 const* address)
{
    return Bfloat16{__ldg(reinterpret_cast<unsigned short const*>(address))};
}

template <>
LCCL_DEVICE Vec16 loadConstant<Vec16>(Vec16 const* address)
{
    uint4 const v = __ldg(reinterpret_cast<uint4 const*>(address));
    return Vec16{{v.x, v.y, v.z, v.w}};
}

//! A value that this thread alone reads and later writes (a residual that is the output itself): a
//! plain load.
template <typename T>
LCCL_DEVICE T loadOwned(T const* address)
{
    return *address;
}

template <typename T>
LCCL_DEVICE void storeGlobal(T* address, T value)
{
    *address = value;
}

//! The value before the addition.
LCCL_DEVICE int32_t atomicAddGlobal(int32_t* address, int32_t value)
{
    return atomicAdd(address, value);
}

// ---- shared memory -----------------------------------------------------------------------------

//! The address of the block's dynamic shared memory, aligned to 128 bytes.
LCCL_DEVICE uint32_t sharedBase()
{
    extern __shared__ __align__(128) unsigned char lcclShared[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(lcclShared));
}

//! T of 4, 8 or 16 bytes.
template <typename T>
LCCL_DEVICE T loadShared(uint32_t address)
{
    return *static_cast<T const*>(__cvta_shared_to_generic(address));
}

template <typename T>
LCCL_DEVICE void storeShared(uint32_t address, T value)
{
    *static_cast<T*>(__cvta_shared_to_generic(address)) = value;
}

//! cp.async.ca: starts a copy of 16 bytes, of which the first `bytes` are read and the others
//! become zero; cached in L1 and L2.
LCCL_DEVICE void cpAsyncCa16(uint32_t shared, void const* global, int32_t bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

//! cp.async.cg: the same, cached in L2 only.
LCCL_DEVICE void cpAsyncCg16(uint32_t shared, void const* global, int32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

//! cp.async.commit_group: closes the group of this thread's copies since the last call; it may be
//! empty.
LCCL_DEVICE void cpAsyncCommitGroup()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

//! cp.async.wait_group: waits until at most `kPending` of this thread's newest groups are under
//! way.
template <int32_t kPending>
LCCL_DEVICE void cpAsyncWaitGroup()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- warps -------------------------------------------------------------------------------------

//! The value of the lane whose number differs by `mask`; all lanes take part.
LCCL_DEVICE float shuffleXor(float value, int32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

LCCL_DEVICE int32_t shuffleXor(int32_t value, int32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

//! The value of lane `source`, which may differ from lane to lane; all lanes take part.
LCCL_DEVICE int32_t shuffle(int32_t value, int32_t source)
{
    return __shfl_sync(0xffffffffu, value, source);
}

//! Bit i: whether the condition holds in lane i; all lanes take part.
LCCL_DEVICE uint32_t ballot(bool condition)
{
    return __ballot_sync(0xffffffffu, condition);
}

LCCL_DEVICE int32_t popcount(uint32_t bits)
{
    return __popc(bits);
}

//! ldmatrix.x4: loads four 8x8 matrices of 16-bit elements; lanes 8i to 8i+7 hold the addresses of
//! matrix i's rows.
LCCL_DEVICE void ldmatrixX4(uint32_t (&fragment)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
        : "r"(address)
        : "memory");
}

//! mma.m16n8k16: c[16x8] += a[16x16] * b[16x8], with float32 sums.
template <typename T>
LCCL_DEVICE void mmaM16N8K16(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1);

template <>
LCCL_DEVICE void mmaM16N8K16<Half>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
LCCL_DEVICE void mmaM16N8K16<Bfloat16>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

} // namespace lccl::machine
