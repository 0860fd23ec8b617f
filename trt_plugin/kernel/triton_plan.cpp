// Plans a call of the Triton kernels: cubins, refusals with their reasons, values of arguments.

#include "triton_plan.h"

#include "launch.h"
#include "triton_tiles.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace lccl
{
namespace
{

//! The configuration that takes any number of channels, float32 and NCHW, too.
constexpr int32_t kGeneralTile = 3;
//! The first compute capability whose copies know boxes.
constexpr int32_t kTensorMemoryAccelerator = 90;
//! The smallest tile, that of kGeneralTile, which takes what no other does.
constexpr int32_t kSmallestRows = 64;
constexpr int32_t kSmallestColumns = 32;
//! Kernels count in 32 bits, with a tile to spare: LARGEST_INDEX of configurations.py.
constexpr int64_t kLargestIndex = (int64_t{1} << 31) - (int64_t{1} << 10);
//! Channels along the second axis of a grid: MOST_FILTERS of configurations.py.
constexpr int32_t kMostFilters = 65535 * kHelperTile;

//! Whether a cubin runs on a device: on its own architecture, and from 8.0 to 8.9 on later ones.
bool runsOn(Cubin const& cubin, int32_t capability)
{
    bool const ampere = capability == 80 || capability == 86 || capability == 89;
    return cubin.capability == capability || (ampere && cubin.capability >= 80 && cubin.capability < capability);
}

//! A driver runs what an older CUDA compiled, and what its own major version did.
bool driverTakes(int32_t driver, Cubin const& cubin)
{
    constexpr int32_t kMajor = 1000;
    return driver == 0 || driver / kMajor >= cubin.cuda / kMajor;
}

CubinKernel mainKernel(lccl_conv_config const& config)
{
    return isBoxes(config) ? CubinKernel::kBoxes : CubinKernel::kRows;
}

int64_t paddedPixels(lccl_conv_params const& p, int32_t const* pads)
{
    return (int64_t{p.h} + pads[0] + pads[2]) * (int64_t{p.w} + pads[1] + pads[3]);
}

uint32_t blocksFor(int64_t items, int64_t each)
{
    return static_cast<uint32_t>((items + each - 1) / each);
}

std::string capabilityText(int32_t capability)
{
    return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::string cudaText(int32_t version)
{
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string rejectBoxes(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    std::string const name = config.name;
    if (device.compute_capability < kTensorMemoryAccelerator)
    {
        return name + " needs compute capability 9.0, and the device has " + capabilityText(device.compute_capability);
    }
    if (p.dtype == LCCL_FLOAT32)
    {
        return name + " takes float16 and bfloat16, not float32";
    }
    if (p.grid % kBoxSide != 0)
    {
        return name + " is for grid gates whose G is a multiple of 8, not " + std::to_string(p.grid);
    }
    if (p.strides[0] != 1 || p.strides[1] != 1)
    {
        return name + " has stride 1, not " + std::to_string(p.strides[0]) + "x" + std::to_string(p.strides[1]);
    }
    return {};
}

} // namespace

bool isBoxes(lccl_conv_config const& config)
{
    switch (isTriton(config) ? tileNumber(config) : 0)
    {
#define LCCL_IS_BOXES(NUMBER, ...) case NUMBER:
        LCCL_TRITON_BOXES(LCCL_IS_BOXES)
#undef LCCL_IS_BOXES
        return true;
    default: return false;
    }
}

Cubin const* findCubin(CubinKernel kernel, lccl_conv_params const& p, lccl_device const& device, int32_t driver, int32_t tile)
{
    int32_t const nchw = p.layout == LCCL_NCHW ? 1 : 0;
    Cubin const* best = nullptr;
    int32_t count = 0;
    Cubin const* const all = allCubins(count);
    for (int32_t i = 0; i < count; ++i)
    {
        Cubin const& cubin = all[i];
        bool const isFor = cubin.kernel == kernel && cubin.dtype == p.dtype && cubin.tile == tile && cubin.nchw == nchw;
        bool const isLoaded = cubin.sharedBytes <= device.shared_per_block && runsOn(cubin, device.compute_capability)
            && driverTakes(driver, cubin);
        // The newest architecture first, then the kernel that knows more of the channels.
        bool const takes = kernel == CubinKernel::kClose || cubin.inEights == 0 || p.c % kChunkElements == 0;
        if (isFor && isLoaded && takes
            && (best == nullptr || cubin.capability > best->capability
                || (cubin.capability == best->capability && cubin.inEights > best->inEights)))
        {
            best = &cubin;
        }
    }
    return best;
}

std::string rejectDevice(lccl_device const& device)
{
    int32_t count = 0;
    Cubin const* const all = allCubins(count);
    bool const runs = std::any_of(
        all, all + count, [&device](Cubin const& cubin) { return runsOn(cubin, device.compute_capability); });
    return runs || hasCudaKernels() ? std::string{}
                                    : "this library has no code for compute capability "
            + capabilityText(device.compute_capability) + ": build it for that, or by nvcc";
}

std::string rejectTriton(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    int32_t const tile = tileNumber(config);
    std::string const name = config.name;
    if (isBoxes(config))
    {
        std::string const reason = rejectBoxes(p, device, config);
        if (!reason.empty())
        {
            return reason;
        }
    }
    Sizes const sizes = sizesOf(p);
    int64_t const rows = sizes.cells * p.grid * p.grid;
    int64_t const tiles = int64_t{blocksFor(rows, kSmallestRows)} * blocksFor(p.k, kSmallestColumns);
    std::pair<char const*, int64_t> const counted[] = {
        {"weights", int64_t{p.k} * p.r * p.s * sizes.channelChunks * kChunkElements},
        {"output pixels, each block of a grid whole,", rows}, {"pixels of an image with its pads", paddedPixels(p, p.pads)},
        {"pixels of an image with the gate's pads", p.has_gate_weight == 0 ? 0 : paddedPixels(p, p.gate_pads)},
        {"tiles", tiles}};
    for (auto const& [what, number] : counted)
    {
        if (number >= kLargestIndex)
        {
            return name + ": " + what + " are fewer than " + std::to_string(kLargestIndex) + ", not " + std::to_string(number);
        }
    }
    if (p.k > kMostFilters)
    {
        return name + " computes at most " + std::to_string(kMostFilters) + " output channels, not " + std::to_string(p.k);
    }
    if (tile != kGeneralTile && p.dtype == LCCL_FLOAT32)
    {
        return name + " takes float16 and bfloat16, not float32";
    }
    if (tile != kGeneralTile && p.c % kChunkElements != 0)
    {
        return name + " takes channels in eights, not " + std::to_string(p.c);
    }
    return {};
}

std::string rejectCubins(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    std::pair<CubinKernel, int32_t> const kernels[] = {
        {mainKernel(config), tileNumber(config)}, {CubinKernel::kGate, 0}, {CubinKernel::kClose, 0}};
    int32_t const driver = driverCuda();
    lccl_device roomy = device;
    roomy.shared_per_block = std::numeric_limits<int32_t>::max();
    for (auto const& [kernel, tile] : kernels)
    {
        if (findCubin(kernel, p, device, driver, tile) != nullptr)
        {
            continue;
        }
        if (Cubin const* const found = findCubin(kernel, p, roomy, driver, tile))
        {
            return std::string(config.name) + " needs " + std::to_string(found->sharedBytes)
                + " bytes of shared memory a block, and the device gives " + std::to_string(device.shared_per_block);
        }
        if (Cubin const* const found = findCubin(kernel, p, roomy, 0, tile))
        {
            return std::string(config.name) + " was compiled by CUDA " + cudaText(found->cuda) + ", and the driver is for CUDA "
                + cudaText(driver) + ": install a newer driver, or build by an older Triton";
        }
        return std::string(config.name) + " has no code for compute capability " + capabilityText(device.compute_capability)
            + " in this library: build it for that, with Triton at hand";
    }
    return {};
}

// ---- values ------------------------------------------------------------------------------------

void Values::setPointer(Argument argument, void const* value)
{
    mValues[static_cast<size_t>(argument)] = {Type::kPointer, static_cast<int64_t>(reinterpret_cast<uintptr_t>(value))};
}

void Values::setInteger(Argument argument, int64_t value)
{
    mValues[static_cast<size_t>(argument)] = {Type::kInteger, value};
}

void Values::setFloat(Argument argument, float value)
{
    int32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    mValues[static_cast<size_t>(argument)] = {Type::kFloat, bits};
}

void Values::setMap(Argument argument, TensorMap const& map)
{
    setPointer(argument, map.address);
    mMaps[mMapCount++] = {argument, map};
}

TensorMap const* Values::map(Argument argument) const
{
    for (size_t i = 0; i < mMapCount; ++i)
    {
        if (mMaps[i].argument == argument)
        {
            return &mMaps[i].map;
        }
    }
    return nullptr;
}

namespace
{

template <typename T>
bool put(int64_t value, Parameter const& parameter, unsigned char* to)
{
    if (parameter.size != sizeof(T) || value < static_cast<int64_t>(std::numeric_limits<T>::min())
        || value > static_cast<int64_t>(std::numeric_limits<T>::max()))
    {
        return false;
    }
    T const narrow = static_cast<T>(value);
    std::memcpy(to + parameter.offset, &narrow, sizeof(T));
    return true;
}

} // namespace

bool Values::write(Parameter const& parameter, unsigned char* to) const
{
    auto const number = static_cast<size_t>(parameter.argument);
    if (number >= mValues.size())
    {
        return false;
    }
    Value const& value = mValues[number];
    TensorMap const* const described = map(parameter.argument);
    bool const inRank = described != nullptr && parameter.axis < described->rank;
    switch (parameter.kind)
    {
    case ParameterKind::kPointer: return value.type == Type::kPointer && put<int64_t>(value.bits, parameter, to);
    case ParameterKind::kInt32: return value.type == Type::kInteger && put<int32_t>(value.bits, parameter, to);
    case ParameterKind::kInt64: return value.type == Type::kInteger && put<int64_t>(value.bits, parameter, to);
    case ParameterKind::kFloat32: return value.type == Type::kFloat && put<int32_t>(value.bits, parameter, to);
    case ParameterKind::kSize: return inRank && put<int32_t>(described->sizes[parameter.axis], parameter, to);
    case ParameterKind::kLongSize: return inRank && put<int64_t>(described->sizes[parameter.axis], parameter, to);
    case ParameterKind::kStride: return inRank && put<int64_t>(described->strides[parameter.axis], parameter, to);
    case ParameterKind::kFlag: return described != nullptr && put<int8_t>(0, parameter, to);
    case ParameterKind::kScratch: return put<int64_t>(0, parameter, to);
    default: return false;
    }
}

// ---- the plan ----------------------------------------------------------------------------------

namespace
{

//! How a map lies: elements from image to image, from pixel to pixel, from channel to channel.
void setStrides(Values& values, Argument image, lccl_conv_params const& p, int64_t channels, int64_t h, int64_t w)
{
    bool const nchw = p.layout == LCCL_NCHW;
    int64_t const pitch = (channels + kChunkElements - 1) / kChunkElements * kChunkElements;
    int64_t const strides[] = {nchw ? channels * h * w : h * w * pitch, nchw ? 1 : pitch, nchw ? h * w : 1};
    for (int32_t i = 0; i < 3; ++i)
    {
        values.setInteger(static_cast<Argument>(static_cast<int32_t>(image) + i), strides[i]);
    }
}

void setAll(Values& values, std::initializer_list<std::pair<Argument, int64_t>> pairs)
{
    for (auto const& [argument, value] : pairs)
    {
        values.setInteger(argument, value);
    }
}

//! 1: one value for each channel, 0: one for all, -1: none.
int64_t strideOf(int32_t size)
{
    return size == 0 ? -1 : size == 1 ? 0 : 1;
}

//! Whether closed pixels are the residual in its own place but for an offset.
bool keepsClosedPixels(lccl_conv_params const& p)
{
    return p.has_residual != 0 && p.residual == p.y && p.post_alpha == 1.0F;
}

//! What all three kernels are told.
Values commonValues(lccl_conv_params const& p, Sizes const& sizes, Workspace const& layout, void* workspace)
{
    auto* const base = static_cast<unsigned char*>(workspace);
    Values values;
    values.setPointer(Argument::kX, p.x);
    values.setPointer(Argument::kWeight, p.weight);
    values.setPointer(Argument::kGateW, p.gate_weight);
    values.setPointer(Argument::kGateB, p.gate_bias);
    values.setPointer(Argument::kExternal, p.gate);
    values.setPointer(Argument::kBias, p.bias);
    values.setPointer(Argument::kScale, p.post_scale);
    values.setPointer(Argument::kOffset, p.post_bias);
    values.setPointer(Argument::kResidual, p.residual);
    values.setPointer(Argument::kY, p.y);
    values.setPointer(Argument::kGmap, base + layout.cellGate);
    values.setPointer(Argument::kCells, base + layout.cellList);
    values.setPointer(Argument::kCount, base + layout.segmentCounts);
    setStrides(values, Argument::kXImage, p, p.c, p.h, p.w);
    setStrides(values, Argument::kYImage, p, p.k, sizes.ho, sizes.wo);
    setAll(values,
        {{Argument::kNCells, sizes.cells}, {Argument::kPixels, sizes.pixels}, {Argument::kH, p.h}, {Argument::kW, p.w},
            {Argument::kHo, sizes.ho}, {Argument::kWo, sizes.wo}, {Argument::kHg, sizes.hg}, {Argument::kWg, sizes.wg},
            {Argument::kC, p.c}, {Argument::kK, p.k}, {Argument::kR, p.r}, {Argument::kS, p.s},
            {Argument::kRg, p.has_gate_weight == 0 ? 0 : p.gate_r}, {Argument::kSg, p.gate_s}, {Argument::kG, p.grid},
            {Argument::kYChannels, sizes.outputChannels}, {Argument::kExternalStride, p.has_gate == 0 ? -1 : 1},
            {Argument::kHasGateB, p.gate_bias == nullptr ? 0 : 1}, {Argument::kSimulatedShift, p.grid > 1 ? 0 : 2},
            {Argument::kScaleStride, strideOf(p.post_scale_size)}, {Argument::kOffsetStride, strideOf(p.post_bias_size)},
            {Argument::kHasResidual, p.has_residual}, {Argument::kKeeps, keepsClosedPixels(p) ? 1 : 0}});
    values.setFloat(Argument::kSlope, p.gate_slope);
    values.setFloat(Argument::kBound, p.gate_max);
    values.setFloat(Argument::kThreshold, p.gate_threshold);
    values.setFloat(Argument::kSimulated, p.simulate_gate == 0 ? -1.0F : p.density < 0 ? kDensityIfUnknown : p.density);
    values.setFloat(Argument::kAlpha, p.activation_alpha);
    values.setFloat(Argument::kPostAlpha, p.post_alpha);
    return values;
}

//! Strides, pads above and left, and dilations of a convolution.
void setGeometry(Values& values, int32_t const* strides, int32_t const* pads, int32_t const* dilations)
{
    setAll(values,
        {{Argument::kSh, strides[0]}, {Argument::kSw, strides[1]}, {Argument::kPh, pads[0]}, {Argument::kPw, pads[1]},
            {Argument::kDh, dilations[0]}, {Argument::kDw, dilations[1]}});
}

//! A map in NHWC. \param channels of `pitch`, the others being padding
TensorMap describeMap(void const* address, int64_t n, int64_t h, int64_t w, int64_t channels, int64_t pitch)
{
    return {address, 4, {n, h, w, channels}, {h * w * pitch, w * pitch, pitch, 1}};
}

void setMaps(Values& values, lccl_conv_params const& p, Sizes const& sizes)
{
    int64_t const taps = int64_t{p.r} * p.s;
    int64_t const pitch = sizes.outputChannels;
    values.setMap(Argument::kX, describeMap(p.x, p.n, p.h, p.w, p.c, p.c));
    values.setMap(Argument::kWeight, {p.weight, 3, {p.k, taps, p.c}, {taps * p.c, p.c, 1}});
    values.setMap(Argument::kY, describeMap(p.y, p.n, sizes.ho, sizes.wo, pitch, pitch));
    // Without a residual its descriptor is not used; it must be one all the same.
    void const* const residual = p.has_residual == 0 ? p.y : p.residual;
    values.setMap(Argument::kResidual, describeMap(residual, p.n, sizes.ho, sizes.wo, p.k, pitch));
}

} // namespace

TritonPlan makeTritonPlan(lccl_conv_params const& p, lccl_device const& device, lccl_device const& current,
    lccl_conv_config const& config, void* workspace)
{
    Sizes const sizes = sizesOf(p);
    Workspace const layout = layOutWorkspace(p, device, config);
    int32_t const driver = driverCuda();
    auto const cubinOf = [&](CubinKernel kernel, int32_t tile) { return findCubin(kernel, p, current, driver, tile); };
    auto const runs = [&p](lccl_kernel kernel) { return p.kernels == 0 || (p.kernels & kernel) != 0; };

    TritonPlan plan{};
    plan.count = reinterpret_cast<int32_t*>(static_cast<unsigned char*>(workspace) + layout.segmentCounts);
    Values const common = commonValues(p, sizes, layout, workspace);
    if (runs(LCCL_KERNEL_GATE))
    {
        plan.gate = {true, cubinOf(CubinKernel::kGate, 0), common, {blocksFor(sizes.cells, kHelperTile), 1}};
        setGeometry(plan.gate.values, p.gate_strides, p.gate_pads, p.gate_dilations);
    }
    if (runs(LCCL_KERNEL_MAIN))
    {
        int64_t const tiles = int64_t{blocksFor(sizes.cells * p.grid * p.grid, config.tile_m)} * blocksFor(p.k, config.tile_n);
        uint32_t const blocks = static_cast<uint32_t>(std::min<int64_t>(tiles, residentBlocks(device, config)));
        plan.main = {true, cubinOf(mainKernel(config), tileNumber(config)), common, {blocks, 1}};
        setGeometry(plan.main.values, p.strides, p.pads, p.dilations);
        plan.main.values.setFloat(
            Argument::kDenseShare, config.family == LCCL_DENSE ? -1.0F : static_cast<float>(kIdentityShare));
        if (isBoxes(config))
        {
            setMaps(plan.main.values, p, sizes);
        }
        if (!keepsClosedPixels(p) || p.post_bias_size != 0 || sizes.outputChannels != p.k)
        {
            plan.close = {true, cubinOf(CubinKernel::kClose, 0), common,
                {blocksFor(sizes.pixels, kHelperTile), blocksFor(sizes.outputChannels, kHelperTile)}};
        }
    }
    return plan;
}

} // namespace lccl
