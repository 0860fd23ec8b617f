// Plans a call: sizes, refusals with their reasons, workspace, arguments.

#include "plan.h"

#include "launch.h"
#include "triton_plan.h"

#include "contract/geometry.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace lccl
{
namespace
{

//! Room above it is for rounding up to whole tiles.
constexpr int64_t kIndexLimit = (int64_t{1} << 31) - (int64_t{1} << 16);
//! Coordinates stay so small that sums of a few of them fit into 32 bits.
constexpr int64_t kCoordinateLimit = int64_t{1} << 29;
//! The cells of a segment are a multiple of this, which is small, so that small maps use many
//! blocks of the gate kernel.
constexpr int64_t kSegmentStep = 8;

//! A product of numbers that are not negative, or 2^62 if it is more.
int64_t product(int64_t a, int64_t b)
{
    constexpr int64_t kMost = int64_t{1} << 62;
    return b != 0 && a > kMost / b ? kMost : a * b;
}

int64_t roundUp(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

int32_t powerOfTwoFrom(int64_t value)
{
    int32_t power = 1;
    while (power < value)
    {
        power *= 2;
    }
    return power;
}

std::string words(char const* format, ...) __attribute__((format(printf, 1, 2)));

std::string words(char const* format, ...)
{
    char text[320];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return text;
}

std::string rejectGeometry(char const* what, int32_t const* strides, int32_t const* pads, int32_t const* dilations)
{
    for (int32_t i = 0; i < 2; ++i)
    {
        if (strides[i] < 1 || dilations[i] < 1)
        {
            return words("%sstrides and dilations must be at least 1", what);
        }
    }
    for (int32_t i = 0; i < 4; ++i)
    {
        if (pads[i] < 0)
        {
            return words("%spads must not be negative", what);
        }
    }
    return {};
}

std::string rejectTypes(lccl_conv_params const& p)
{
    if (p.abi != LCCL_CUDA_ABI)
    {
        return words("the caller was built for interface %u of this library, which has %d: build both from one version", p.abi,
            LCCL_CUDA_ABI);
    }
    if (p.dtype != LCCL_FLOAT32 && p.dtype != LCCL_FLOAT16 && p.dtype != LCCL_BFLOAT16)
    {
        return words("dtype %d is none of float32, float16, bfloat16", p.dtype);
    }
    if (p.layout != LCCL_NHWC && p.layout != LCCL_NCHW)
    {
        return words("layout %d is neither NHWC nor NCHW", p.layout);
    }
    if (p.kernels < 0 || p.kernels > (LCCL_KERNEL_PACK | LCCL_KERNEL_GATE | LCCL_KERNEL_MAIN))
    {
        return words("kernels has bits of lccl_kernel, or is 0 for the op, not %d", p.kernels);
    }
    if (p.layout == LCCL_NCHW && p.dtype != LCCL_FLOAT32)
    {
        return "float16 and bfloat16 tensors must be NHWC with channels padded to 8";
    }
    return {};
}

std::string rejectSizes(lccl_conv_params const& p)
{
    if (p.n < 0 || p.c < 1 || p.h < 1 || p.w < 1 || p.k < 1)
    {
        return words("sizes must be positive (the batch may be 0), not x [%d, %d, %d, %d] and %d output channels", p.n, p.c,
            p.h, p.w, p.k);
    }
    if (p.grid < 1 || p.grid > 16)
    {
        return words("gate_upsample is 1 to 16, not %d", p.grid);
    }
    std::string const reason = rejectKernelSize(p.r, p.s, kMaxKernel);
    return reason.empty() ? rejectPostSizes(p.post_scale_size, p.post_bias_size, p.k) : reason;
}

std::string rejectIndices(lccl_conv_params const& p, Sizes const& sizes)
{
    for (int64_t const size : {int64_t{p.h}, int64_t{p.w}, product(sizes.ho, p.strides[0]), product(sizes.wo, p.strides[1]),
             product(sizes.hg, std::max(p.gate_strides[0], 0)), product(sizes.wg, std::max(p.gate_strides[1], 0))})
    {
        if (size >= kCoordinateLimit)
        {
            return "height and width, with strides, must stay under 2^29";
        }
    }
    for (int32_t const i : {0, 1, 2, 3})
    {
        if (std::max(p.pads[i], p.gate_pads[i]) >= kCoordinateLimit)
        {
            return "pads must stay under 2^29";
        }
    }
    if (int64_t{kMaxKernel} * std::max(p.dilations[0], p.dilations[1]) >= kCoordinateLimit
        || int64_t{std::max(p.gate_r, p.gate_s)} * std::max(p.gate_dilations[0], p.gate_dilations[1]) >= kCoordinateLimit)
    {
        return "dilations, times the kernel, must stay under 2^29";
    }
    if (sizes.pixels >= kIndexLimit || product(sizes.cells, p.grid * p.grid) >= kIndexLimit)
    {
        return "the batch has nearly 2^31 output pixels or more: split it";
    }
    if (product(p.n, product(p.h, p.w)) >= kIndexLimit)
    {
        return "x has nearly 2^31 pixels or more: split the batch";
    }
    if (product(sizes.outputChannels, p.r * p.s * sizes.channelChunks * 8) >= kIndexLimit)
    {
        return "the weights have nearly 2^31 elements or more";
    }
    return {};
}

std::string rejectGate(lccl_conv_params const& p, Sizes const& sizes)
{
    if (p.has_gate_weight == 0)
    {
        return {};
    }
    if (p.gate_r < 1 || p.gate_s < 1)
    {
        return words("the gate's kernel must be at least 1x1, not %dx%d", p.gate_r, p.gate_s);
    }
    if (product(product(p.gate_r, p.gate_s), sizes.channelChunks * 8) >= kIndexLimit)
    {
        return "the gate's weights have nearly 2^31 elements or more";
    }
    return rejectGateSize(p, {sizes.ho, sizes.wo, sizes.hg, sizes.wg});
}

Strides stridesOf(int32_t layout, int64_t channels, int64_t h, int64_t w)
{
    if (layout == LCCL_NCHW)
    {
        return {channels * h * w, h * w, w, 1};
    }
    int64_t const pitch = roundUp(channels, kChunkElements);
    return {h * w * pitch, 1, w * pitch, pitch};
}

//! Cells that a block of the gate kernel computes: few, but no more than kMaxSegments blocks.
int32_t segmentCellsOf(int64_t cells)
{
    return static_cast<int32_t>(std::max(kSegmentStep, roundUp((cells + kMaxSegments - 1) / kMaxSegments, kSegmentStep)));
}

} // namespace

Sizes sizesOf(lccl_conv_params const& p)
{
    Maps const maps = mapsOf(p);
    Sizes sizes{};
    sizes.ho = maps.ho;
    sizes.wo = maps.wo;
    sizes.hg = maps.hg;
    sizes.wg = maps.wg;
    sizes.cells = product(p.n, product(sizes.hg, sizes.wg));
    sizes.pixels = product(p.n, product(sizes.ho, sizes.wo));
    sizes.channelChunks = (int64_t{p.c} + kChunkElements - 1) / kChunkElements;
    sizes.outputChannels = p.layout == LCCL_NCHW ? p.k : roundUp(p.k, kChunkElements);
    return sizes;
}

std::string rejectCall(lccl_conv_params const& p)
{
    for (std::string const& reason : {rejectTypes(p), rejectSizes(p), rejectGeometry("", p.strides, p.pads, p.dilations),
             p.has_gate_weight == 0 ? std::string{}
                                    : rejectGeometry("the gate's ", p.gate_strides, p.gate_pads, p.gate_dilations)})
    {
        if (!reason.empty())
        {
            return reason;
        }
    }
    Sizes const sizes = sizesOf(p);
    if (sizes.ho < 1 || sizes.wo < 1)
    {
        return noPixelText(p.h, p.w, p.r, p.s);
    }
    std::string const reason = rejectIndices(p, sizes);
    return reason.empty() ? rejectGate(p, sizes) : reason;
}

std::string rejectConfiguration(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    if (config.family == LCCL_BLOCK && p.grid < 2)
    {
        return words("%s skips blocks, and this gate has a value for each pixel", config.name);
    }
    if (config.family == LCCL_PIXEL && p.grid > 1)
    {
        return words("%s skips pixels, and this gate has a value for %dx%d of them", config.name, p.grid, p.grid);
    }
    if (!isTriton(config) && !hasCudaKernels())
    {
        return words("%s is compiled by nvcc, and this library was built without it", config.name);
    }
    if (config.math == LCCL_MMA && p.dtype == LCCL_FLOAT32)
    {
        return words("%s takes float16 and bfloat16, not float32", config.name);
    }
    if (config.math == LCCL_SIMT && p.dtype != LCCL_FLOAT32)
    {
        return words("%s takes float32; float16 and bfloat16 go to tensor cores", config.name);
    }
    if (device.compute_capability < 80)
    {
        return words("%s needs compute capability 8.0, and the device has %d.%d", config.name, device.compute_capability / 10,
            device.compute_capability % 10);
    }
    if (!isTriton(config) && config.shared_bytes > device.shared_per_block)
    {
        return words("%s needs %d bytes of shared memory a block, and the device gives %d", config.name, config.shared_bytes,
            device.shared_per_block);
    }
    if (device.sm_count < 1)
    {
        return "the device has no multiprocessors: fill lccl_device by lccl_device_query";
    }
    return isTriton(config) ? rejectTriton(p, device, config) : std::string{};
}

int32_t residentBlocks(lccl_device const& device, lccl_conv_config const& config)
{
    constexpr int32_t kReservedPerBlock = 1024;
    int32_t const byShared = device.shared_per_sm / (config.shared_bytes + kReservedPerBlock);
    int32_t const perSm = std::max(1, std::min(config.blocks_per_sm, byShared));
    return perSm * device.sm_count;
}

bool mayShareTiles(lccl_conv_config const& config)
{
    return config.math == LCCL_MMA && tileSplits(config.tile_m, config.tile_n);
}

std::string rejectCode(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    return isTriton(config) ? rejectCubins(p, device, config) : std::string{};
}

Workspace layOutWorkspace(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    Sizes const sizes = sizesOf(p);
    bool const splits = mayShareTiles(config);
    int64_t const blocks = residentBlocks(device, config);
    Workspace layout{};
    layout.packs = config.math == LCCL_MMA && p.c % kChunkElements != 0;
    auto const place = [&layout](int64_t bytes)
    {
        size_t const offset = layout.bytes;
        layout.bytes += static_cast<size_t>(roundUp(bytes, 256));
        return offset;
    };
    layout.cellGate = place(sizes.cells * 4);
    layout.cellList = place(sizes.cells * 4);
    if (isTriton(config))
    {
        layout.segmentCounts = place(4); // one count
        return layout;
    }
    layout.segmentCounts = place(kMaxSegments * 4);
    layout.tileCounters = place(splits ? blocks * 4 : 0);
    layout.partials = place(splits ? blocks * config.tile_m * config.tile_n * 4 : 0);
    layout.packedWeight = place(layout.packs ? int64_t{p.k} * p.r * p.s * sizes.channelChunks * 16 : 0);
    return layout;
}

namespace
{

void describeTensors(Arguments& a, lccl_conv_params const& p, Sizes const& sizes)
{
    a.x = p.x;
    a.weight = p.weight;
    a.bias = p.bias;
    a.gateWeight = p.gate_weight;
    a.gateBias = p.gate_bias;
    a.gate = p.gate;
    a.postScale = p.post_scale_size == 0 ? nullptr : p.post_scale;
    a.postBias = p.post_bias_size == 0 ? nullptr : p.post_bias;
    a.residual = p.residual;
    a.y = p.y;
    a.postScaleStep = p.post_scale_size > 1 ? 1 : 0;
    a.postBiasStep = p.post_bias_size > 1 ? 1 : 0;
    a.xStrides = stridesOf(p.layout, p.c, p.h, p.w);
    a.yStrides = stridesOf(p.layout, p.k, sizes.ho, sizes.wo);
}

void describeWorkspace(Arguments& a, Workspace const& layout, void* workspace)
{
    auto* const base = static_cast<unsigned char*>(workspace);
    a.cellGate = reinterpret_cast<float*>(base + layout.cellGate);
    a.cellList = reinterpret_cast<int32_t*>(base + layout.cellList);
    a.segmentCounts = reinterpret_cast<int32_t*>(base + layout.segmentCounts);
    a.tileCounters = reinterpret_cast<int32_t*>(base + layout.tileCounters);
    a.partials = reinterpret_cast<float*>(base + layout.partials);
    a.packedWeight = layout.packs ? base + layout.packedWeight : nullptr;
}

void describeGeometry(Arguments& a, lccl_conv_params const& p, Sizes const& sizes)
{
    a.n = p.n;
    a.c = p.c;
    a.h = p.h;
    a.w = p.w;
    a.k = p.k;
    a.r = p.r;
    a.s = p.s;
    a.ho = static_cast<int32_t>(sizes.ho);
    a.wo = static_cast<int32_t>(sizes.wo);
    a.hg = static_cast<int32_t>(sizes.hg);
    a.wg = static_cast<int32_t>(sizes.wg);
    a.strideH = p.strides[0];
    a.strideW = p.strides[1];
    a.padTop = p.pads[0];
    a.padLeft = p.pads[1];
    a.dilationH = p.dilations[0];
    a.dilationW = p.dilations[1];
    a.gateR = p.gate_r;
    a.gateS = p.gate_s;
    a.gateStrideH = p.gate_strides[0];
    a.gateStrideW = p.gate_strides[1];
    a.gatePadTop = p.gate_pads[0];
    a.gatePadLeft = p.gate_pads[1];
    a.gateDilationH = p.gate_dilations[0];
    a.gateDilationW = p.gate_dilations[1];
    a.grid = p.grid;
    a.cells = static_cast<int32_t>(sizes.cells);
    a.pixels = static_cast<int32_t>(sizes.pixels);
    a.outputChannels = static_cast<int32_t>(sizes.outputChannels);
    a.channelChunks = static_cast<int32_t>(sizes.channelChunks);
    a.lastChunkBytes = (p.c - (a.channelChunks - 1) * kChunkElements) * 2;
    a.inputPitch = a.channelChunks * kChunkElements;
    a.byChannelChunks = makeFastDivisor(a.channelChunks);
    a.byChannels = makeFastDivisor(p.c);
    a.byKernelWidth = makeFastDivisor(p.s);
    a.byGateKernelWidth = makeFastDivisor(std::max(p.gate_s, 1));
    a.byCellArea = makeFastDivisor(p.grid * p.grid);
    a.byGrid = makeFastDivisor(p.grid);
    a.byGateWidth = makeFastDivisor(a.wg);
    a.byGateHeight = makeFastDivisor(a.hg);
    a.byOutputWidth = makeFastDivisor(a.wo);
    a.byOutputHeight = makeFastDivisor(a.ho);
}

} // namespace

Plan makePlan(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config, void* workspace)
{
    Sizes const sizes = sizesOf(p);
    Plan plan{};
    Arguments& a = plan.arguments;
    describeTensors(a, p, sizes);
    describeGeometry(a, p, sizes);
    Workspace const layout = layOutWorkspace(p, device, config);
    describeWorkspace(a, layout, workspace);
    a.activationAlpha = p.activation_alpha;
    a.gateSlope = p.gate_slope;
    a.gateMax = p.gate_max;
    a.gateThreshold = p.gate_threshold;
    a.postAlpha = p.post_alpha;
    a.simulatedDensity = p.simulate_gate == 0 ? -1.0F : p.density < 0 ? kDensityIfUnknown : p.density;

    int32_t const resident = residentBlocks(device, config);
    int32_t const area = p.grid * p.grid;
    a.identityAbove = config.family == LCCL_DENSE ? -1
                                                  : static_cast<int32_t>(kIdentityShare * static_cast<double>(a.pixels) / area);
    a.maxSplits = mayShareTiles(config) ? kMaxSplits : 1;
    a.counters = mayShareTiles(config) ? resident : 0;
    a.segmentCells = segmentCellsOf(a.cells);
    a.segments = static_cast<int32_t>((sizes.cells + a.segmentCells - 1) / a.segmentCells);
    int64_t const gateSteps = p.has_gate_weight == 0
        ? 1
        : int64_t{p.gate_r} * p.gate_s * (p.dtype == LCCL_FLOAT32 ? int64_t{p.c} : sizes.channelChunks);
    a.gateLanes = powerOfTwoFrom(std::min<int64_t>(gateSteps, kWarpSize));
    int32_t const vectorElements = p.dtype == LCCL_FLOAT32 ? 4 : 8;
    a.fillLanes = powerOfTwoFrom(std::min(ceilDivide(a.outputChannels, vectorElements), kWarpSize));

    constexpr int32_t kAllKernels = LCCL_KERNEL_PACK | LCCL_KERNEL_GATE | LCCL_KERNEL_MAIN;
    int32_t const kernels = p.kernels == 0 ? kAllKernels : p.kernels;
    plan.packs = layout.packs && (kernels & LCCL_KERNEL_PACK) != 0;
    plan.gates = (kernels & LCCL_KERNEL_GATE) != 0;
    plan.multiplies = (kernels & LCCL_KERNEL_MAIN) != 0;
    plan.packBlocks = static_cast<int32_t>(
        std::min<int64_t>((int64_t{p.k} * p.r * p.s * a.channelChunks + 255) / 256, int64_t{device.sm_count} * 4));
    plan.gateBlocks = a.segments;
    int64_t const mostRows = std::max<int64_t>(a.pixels, sizes.cells * area);
    int64_t const mostTiles = (mostRows + config.tile_m - 1) / config.tile_m
        * ((a.outputChannels + config.tile_n - 1) / config.tile_n);
    plan.mainBlocks = static_cast<int32_t>(std::min<int64_t>(mostTiles * a.maxSplits, resident));
    return plan;
}

} // namespace lccl
