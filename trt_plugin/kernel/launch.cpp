// Starts the CUDA kernels of a call, in their order.

#include "launch.h"

#include "instantiations.h"

namespace lccl
{
namespace
{

template <typename Kernel>
cudaError_t start(Plan const& plan, int32_t blocks, cudaStream_t stream)
{
    return plan.loadOnly ? machine::load<Kernel, Arguments>()
                         : machine::launch<Kernel, Arguments>(plan.arguments, blocks, Kernel::kSharedBytes, stream);
}

template <typename T>
cudaError_t startTile(Plan const& plan, int32_t tile, cudaStream_t stream)
{
    switch (tile)
    {
#define LCCL_START_TILE(NUMBER, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS, REGISTERS)                                             \
    case NUMBER: return start<GatedGemm<T, M, N, STAGES, WARPS_M, WARPS_N, BLOCKS>>(plan, plan.mainBlocks, stream);
        LCCL_MMA_TILES(LCCL_START_TILE)
#undef LCCL_START_TILE
    default: return cudaErrorNotSupported;
    }
}

template <typename T>
cudaError_t startPack([[maybe_unused]] Plan const& plan, [[maybe_unused]] cudaStream_t stream)
{
    if constexpr (sizeof(T) == 2)
    {
        return start<PackKernel<T>>(plan, plan.packBlocks, stream);
    }
    return cudaErrorNotSupported;
}

template <typename T>
cudaError_t startMain(Plan const& plan, lccl_conv_config const& config, cudaStream_t stream)
{
    if constexpr (sizeof(T) == 2)
    {
        return startTile<T>(plan, tileNumber(config), stream);
    }
    return start<SimtGemm>(plan, plan.mainBlocks, stream);
}

template <typename T>
cudaError_t startAll(Plan const& plan, lccl_conv_config const& config, cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;
    if (plan.packs)
    {
        error = startPack<T>(plan, stream);
    }
    if (error == cudaSuccess && plan.gates)
    {
        error = start<GateKernel<T>>(plan, plan.gateBlocks, stream);
    }
    return error == cudaSuccess && plan.multiplies ? startMain<T>(plan, config, stream) : error;
}

cudaError_t startAs(int32_t dtype, Plan const& plan, lccl_conv_config const& config, cudaStream_t stream)
{
    switch (dtype)
    {
    case LCCL_FLOAT16: return startAll<Half>(plan, config, stream);
    case LCCL_BFLOAT16: return startAll<Bfloat16>(plan, config, stream);
    default: return startAll<float>(plan, config, stream);
    }
}

} // namespace

bool hasCudaKernels()
{
    return true;
}

cudaError_t launchCuda(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config,
    void* workspace, cudaStream_t stream)
{
    return startAs(params.dtype, makePlan(params, device, config, workspace), config, stream);
}

cudaError_t loadCuda(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config)
{
    Plan plan = makePlan(params, device, config, nullptr);
    plan.loadOnly = true;
    return startAs(params.dtype, plan, config, nullptr);
}

} // namespace lccl
