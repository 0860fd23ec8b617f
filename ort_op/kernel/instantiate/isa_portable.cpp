// The kernels for any machine, with the compiler's own vectors of 16 bytes.
#define LCCL_CPU_ISA lccl_cpu_portable
#define LCCL_CPU_VECTOR_BYTES 16
#define LCCL_CPU_TILE_ROWS 6
#include "../work.h"

namespace lccl_cpu
{

static bool runs()
{
    return true;
}

static constexpr Isa kIsa{
    {LCCL_CPU_PORTABLE, "portable", LCCL_CPU_VECTOR_BYTES, lccl_cpu_portable::kTileRows, lccl_cpu_portable::kTileColumns}, runs,
    lccl_cpu_portable::work};
Isa const* const kPortable = &kIsa;

} // namespace lccl_cpu
