// Vector registers of LCCL_CPU_VECTOR_BYTES: load, store, multiply and add, transpose. The compiler
// lowers what the machine lacks. Only the files of instruction sets include it.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace LCCL_CPU_ISA
{

typedef float Vector __attribute__((vector_size(LCCL_CPU_VECTOR_BYTES)));
typedef float UnalignedVector __attribute__((vector_size(LCCL_CPU_VECTOR_BYTES), aligned(4), may_alias));
constexpr int kLanes = LCCL_CPU_VECTOR_BYTES / 4;

#define LCCL_INLINE static inline __attribute__((always_inline))

LCCL_INLINE Vector load(float const* p)
{
    return *reinterpret_cast<UnalignedVector const*>(p);
}

LCCL_INLINE void store(float* p, Vector v)
{
    *reinterpret_cast<UnalignedVector*>(p) = v;
}

//! Keeps a value in a register here: compilers have spilled weights to the stack in each step of
//! the micro-kernel.
LCCL_INLINE void keepInRegister(Vector& v)
{
#if defined(__AVX512F__) || (defined(__AVX__) && LCCL_CPU_VECTOR_BYTES == 32)
    __asm__("" : "+v"(v));
#elif defined(__ARM_NEON) && LCCL_CPU_VECTOR_BYTES == 16
    __asm__("" : "+w"(v));
#else
    (void)v;
#endif
}

//! Not Vector{} + x: that is an addition, since -0 + 0 is not -0.
LCCL_INLINE Vector broadcast(float x)
{
#if defined(__AVX512F__) && LCCL_CPU_VECTOR_BYTES == 64
    return reinterpret_cast<Vector>(_mm512_set1_ps(x));
#elif defined(__AVX__) && LCCL_CPU_VECTOR_BYTES == 32
    return reinterpret_cast<Vector>(_mm256_set1_ps(x));
#elif defined(__ARM_NEON) && LCCL_CPU_VECTOR_BYTES == 16
    return reinterpret_cast<Vector>(vdupq_n_f32(x));
#else
    Vector v;
    for (int i = 0; i < kLanes; ++i)
    {
        v[i] = x;
    }
    return v;
#endif
}

//! a * b + c in one instruction where the machine has one, whatever the compiler's cost model
//! prefers.
LCCL_INLINE Vector multiplyAdd(Vector a, Vector b, Vector c)
{
#if defined(__AVX512F__) && LCCL_CPU_VECTOR_BYTES == 64
    return reinterpret_cast<Vector>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__FMA__) && LCCL_CPU_VECTOR_BYTES == 32
    return reinterpret_cast<Vector>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__ARM_NEON) && LCCL_CPU_VECTOR_BYTES == 16
    return reinterpret_cast<Vector>(
        vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
#else
    return a * b + c;
#endif
}

//! The same for one value, rounded as in vectors: which of the two computes a pixel depends on how
//! a call is cut.
LCCL_INLINE float multiplyAdd(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

//! x if x > 0, else alpha * x; NaN stays NaN.
LCCL_INLINE Vector leaky(Vector x, Vector alpha)
{
    return x > 0 ? x : alpha * x;
}

LCCL_INLINE float leaky(float x, float alpha)
{
    return x > 0 ? x : alpha * x;
}

// Transposition goes by squares of 8 x 8 where registers hold 8, else of 4 x 4.
#if defined(__AVX__)
constexpr int kSquare = 8;
typedef __m256 SquareRow;

//! The transposed square of 8 rows of 8 values; `row(i)` points at row i. Halves are put together
//! as they are loaded, which leaves the shuffles between halves out.
template <typename Row>
LCCL_INLINE void loadTransposed(SquareRow (&r)[8], Row row)
{
    __m256 h[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
    {
        h[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(i))), _mm_loadu_ps(row(i + 4)), 1);
        h[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(i) + 4)), _mm_loadu_ps(row(i + 4) + 4), 1);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
    {
        __m256 const a0 = _mm256_unpacklo_ps(h[i], h[i + 1]), a1 = _mm256_unpackhi_ps(h[i], h[i + 1]);
        __m256 const a2 = _mm256_unpacklo_ps(h[i + 2], h[i + 3]), a3 = _mm256_unpackhi_ps(h[i + 2], h[i + 3]);
        r[i] = _mm256_shuffle_ps(a0, a2, 0x44);
        r[i + 1] = _mm256_shuffle_ps(a0, a2, 0xee);
        r[i + 2] = _mm256_shuffle_ps(a1, a3, 0x44);
        r[i + 3] = _mm256_shuffle_ps(a1, a3, 0xee);
    }
}
#else
constexpr int kSquare = 4;
typedef float SquareRow __attribute__((vector_size(16)));
typedef int32_t SquareIndex __attribute__((vector_size(16)));

#if defined(__clang__)
#define LCCL_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define LCCL_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, SquareIndex{i, j, k, l})
#endif

template <typename Row>
LCCL_INLINE void loadTransposed(SquareRow (&r)[4], Row row)
{
    SquareRow h[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
    {
        memcpy(&h[i], row(i), sizeof h[i]);
    }
    SquareRow const a0 = LCCL_SHUFFLE(h[0], h[1], 0, 4, 1, 5), a1 = LCCL_SHUFFLE(h[0], h[1], 2, 6, 3, 7);
    SquareRow const a2 = LCCL_SHUFFLE(h[2], h[3], 0, 4, 1, 5), a3 = LCCL_SHUFFLE(h[2], h[3], 2, 6, 3, 7);
    r[0] = LCCL_SHUFFLE(a0, a2, 0, 1, 4, 5);
    r[1] = LCCL_SHUFFLE(a0, a2, 2, 3, 6, 7);
    r[2] = LCCL_SHUFFLE(a1, a3, 0, 1, 4, 5);
    r[3] = LCCL_SHUFFLE(a1, a3, 2, 3, 6, 7);
}
#endif

LCCL_INLINE SquareRow loadRow(float const* p)
{
    SquareRow v;
    memcpy(&v, p, sizeof v);
    return v;
}

LCCL_INLINE void storeRow(float* p, SquareRow v)
{
    memcpy(p, &v, sizeof v);
}

LCCL_INLINE SquareRow broadcastRow(float x)
{
    SquareRow v;
    for (int i = 0; i < kSquare; ++i)
    {
        v[i] = x;
    }
    return v;
}

//! Bit i is set where p[i] > 0; not for a NaN.
LCCL_INLINE unsigned positiveOf8(float const* p)
{
#if defined(__AVX__)
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_setzero_ps(), _CMP_GT_OQ)));
#else
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i)
    {
        bits |= static_cast<unsigned>(p[i] > 0) << i;
    }
    return bits;
#endif
}

LCCL_INLINE SquareRow leakyRow(SquareRow x, SquareRow alpha)
{
    return x > 0 ? x : alpha * x;
}

} // namespace LCCL_CPU_ISA
