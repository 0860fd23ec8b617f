// The kernels for AVX-512 (F, BW, CD, DQ, VL). LCCL_CPU_EMULATE_AVX512 compiles the same code for
// narrower registers, so that its indices are tested on machines without AVX-512.
#include "../isa.h"

#if defined(__AVX512VL__) || defined(LCCL_CPU_EMULATE_AVX512)
#define LCCL_CPU_ISA lccl_cpu_avx512
#define LCCL_CPU_VECTOR_BYTES 64
#define LCCL_CPU_TILE_ROWS 8
#include "../work.h"

namespace lccl_cpu
{

static bool runs()
{
#if defined(LCCL_CPU_EMULATE_AVX512)
    return true;
#else
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2")
        && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#endif
}

static constexpr Isa kIsa{
    {LCCL_CPU_AVX512, "avx512", LCCL_CPU_VECTOR_BYTES, lccl_cpu_avx512::kTileRows, lccl_cpu_avx512::kTileColumns}, runs,
    lccl_cpu_avx512::work};
Isa const* const kAvx512 = &kIsa;

} // namespace lccl_cpu
#else
lccl_cpu::Isa const* const lccl_cpu::kAvx512 = nullptr;
#endif
