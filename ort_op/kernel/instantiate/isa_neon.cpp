// The kernels for NEON, which every 64-bit ARM processor has.
#include "../isa.h"

#if defined(__aarch64__)
#define LCCL_CPU_ISA lccl_cpu_neon
#define LCCL_CPU_VECTOR_BYTES 16
#define LCCL_CPU_TILE_ROWS 8
#include "../work.h"

namespace lccl_cpu
{

static bool runs()
{
    return true;
}

static constexpr Isa kIsa{{LCCL_CPU_NEON, "neon", LCCL_CPU_VECTOR_BYTES, lccl_cpu_neon::kTileRows, lccl_cpu_neon::kTileColumns},
    runs, lccl_cpu_neon::work};
Isa const* const kNeon = &kIsa;

} // namespace lccl_cpu
#else
lccl_cpu::Isa const* const lccl_cpu::kNeon = nullptr;
#endif
