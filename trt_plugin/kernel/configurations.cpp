// The table of configurations, made from the kernels' own constants.

#include "configurations.h"

#include "gemm.h"
#include "simt.h"
#include "tiles.h"

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

#define LCCL_ROW(FAMILY, PREFIX, NUMBER, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS, REGISTERS)                                    \
    mmaRow<FAMILY, NUMBER, GatedGemm<Half, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS>>(                                           \
        PREFIX "-mma-" #M "x" #N "-s" #STAGES "-w" #WARPS_M "x" #WARPS_N, REGISTERS),
#define LCCL_DENSE_ROW(...) LCCL_ROW(LCCL_DENSE, "dense", __VA_ARGS__)
#define LCCL_BLOCK_ROW(...) LCCL_ROW(LCCL_BLOCK, "block", __VA_ARGS__)
#define LCCL_PIXEL_ROW(...) LCCL_ROW(LCCL_PIXEL, "pixel", __VA_ARGS__)

constexpr lccl_conv_config kConfigurations[] = {
    LCCL_MMA_TILES(LCCL_DENSE_ROW) LCCL_MMA_TILES(LCCL_BLOCK_ROW) LCCL_MMA_TILES(LCCL_PIXEL_ROW) //
    simtRow<LCCL_DENSE>("dense-simt-64x64"),
    simtRow<LCCL_BLOCK>("block-simt-64x64"),
    simtRow<LCCL_PIXEL>("pixel-simt-64x64"),
};

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
