// The kernels for AVX2, FMA, BMI and BMI2.
#include "../isa.h"

#if defined(__AVX2__) && defined(__FMA__)
#define LCCL_CPU_ISA lccl_cpu_avx2
#define LCCL_CPU_VECTOR_BYTES 32
#define LCCL_CPU_TILE_ROWS 6
#include "../work.h"

namespace lccl_cpu
{

static bool runs()
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
        && __builtin_cpu_supports("bmi2");
}

static constexpr Isa kIsa{{LCCL_CPU_AVX2, "avx2", LCCL_CPU_VECTOR_BYTES, lccl_cpu_avx2::kTileRows, lccl_cpu_avx2::kTileColumns},
    runs, lccl_cpu_avx2::work};
Isa const* const kAvx2 = &kIsa;

} // namespace lccl_cpu
#else
lccl_cpu::Isa const* const lccl_cpu::kAvx2 = nullptr;
#endif
