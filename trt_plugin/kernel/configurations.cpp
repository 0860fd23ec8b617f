// The table of configurations, made from the kernels' own constants.

#include "configurations.h"

#include "gemm.h"
#include "simt.h"
#include "tiles.h"
#include "triton_tiles.h"

namespace lccl
{
namespace
{

template <int32_t kFamily, int32_t kTile, typename Kernel>
constexpr lccl_conv_config mmaRow(char const* name, int32_t registers)
{
    return {configurationId(kFamily, LCCL_MMA, kTile), name, kFamily, LCCL_MMA, Kernel::kTileM, Kernel::kTileN, Kernel::kTileK,
        Kernel::kStages, Kernel::kWarpsM, Kernel::kWarpsN, Kernel::kSharedBytes, registers, Kernel::kBlocksPerSm};
}

template <int32_t kFamily>
constexpr lccl_conv_config simtRow(char const* name)
{
    using Kernel = SimtGemm;
    return {configurationId(kFamily, LCCL_SIMT, 1), name, kFamily, LCCL_SIMT, Kernel::kTileM, Kernel::kTileN, Kernel::kTileK,
        Kernel::kStages, Kernel::kWarpsM, Kernel::kWarpsN, Kernel::kSharedBytes, 128, Kernel::kBlocksPerSm};
}

//! What Triton adds to the tiles in shared memory: barriers, and room to change layouts.
constexpr int32_t kTritonExtra = 1024;

constexpr lccl_conv_config tritonRow(int32_t family, int32_t tile, char const* name, int32_t m, int32_t n, int32_t k,
    int32_t warps, int32_t stages, int32_t elementBytes, int32_t registers)
{
    constexpr int32_t kRegistersPerSm = 65536;
    return {configurationId(family, LCCL_TRITON, tile), name, family, LCCL_TRITON, m, n, k, stages, warps, 1,
        (m + n) * k * stages * elementBytes + kTritonExtra, registers, kRegistersPerSm / (registers * warps * 32)};
}

#define LCCL_ROW(FAMILY, PREFIX, NUMBER, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS, REGISTERS)                                    \
    mmaRow<FAMILY, NUMBER, GatedGemm<Half, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS>>(                                           \
        PREFIX "-mma-" #M "x" #N "-s" #STAGES "-w" #WARPS_M "x" #WARPS_N, REGISTERS),
#define LCCL_DENSE_ROW(...) LCCL_ROW(LCCL_DENSE, "dense", __VA_ARGS__)
#define LCCL_BLOCK_ROW(...) LCCL_ROW(LCCL_BLOCK, "block", __VA_ARGS__)
#define LCCL_PIXEL_ROW(...) LCCL_ROW(LCCL_PIXEL, "pixel", __VA_ARGS__)

#define LCCL_TRITON_ROW(FAMILY, PREFIX, NUMBER, KERNEL, M, N, K, WARPS, STAGES, BYTES, REGISTERS)                              \
    tritonRow(FAMILY, NUMBER, PREFIX "-triton-" KERNEL "-" #M "x" #N "x" #K "-s" #STAGES "-w" #WARPS, M, N, K, WARPS, STAGES,  \
        BYTES, REGISTERS),
#define LCCL_TRITON_DENSE(...) LCCL_TRITON_ROW(LCCL_DENSE, "dense", __VA_ARGS__)
#define LCCL_TRITON_BLOCK(...) LCCL_TRITON_ROW(LCCL_BLOCK, "block", __VA_ARGS__)
#define LCCL_TRITON_PIXEL(...) LCCL_TRITON_ROW(LCCL_PIXEL, "pixel", __VA_ARGS__)

constexpr lccl_conv_config kConfigurations[] = {LCCL_MMA_TILES(LCCL_DENSE_ROW) LCCL_MMA_TILES(LCCL_BLOCK_ROW)
                                                    LCCL_MMA_TILES(LCCL_PIXEL_ROW) //
    simtRow<LCCL_DENSE>("dense-simt-64x64"),
    simtRow<LCCL_BLOCK>("block-simt-64x64"), simtRow<LCCL_PIXEL>("pixel-simt-64x64"),
    // Boxes first: of what is predicted to take the same time, the first is chosen.
    LCCL_TRITON_BOXES(LCCL_TRITON_DENSE) LCCL_TRITON_BOXES(LCCL_TRITON_BLOCK) //
    LCCL_TRITON_ROWS(LCCL_TRITON_DENSE) LCCL_TRITON_ROWS(LCCL_TRITON_BLOCK) LCCL_TRITON_ROWS(LCCL_TRITON_PIXEL)};

} // namespace

int32_t configurationCount()
{
    return static_cast<int32_t>(sizeof(kConfigurations) / sizeof(kConfigurations[0]));
}

lccl_conv_config const* configurationAt(int32_t index)
{
    return index >= 0 && index < configurationCount() ? &kConfigurations[index] : nullptr;
}

lccl_conv_config const* findConfiguration(int32_t id)
{
    for (lccl_conv_config const& config : kConfigurations)
    {
        if (config.id == id)
        {
            return &config;
        }
    }
    return nullptr;
}

} // namespace lccl
