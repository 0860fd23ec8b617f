// Predicts the time of a configuration: a roofline model with the tile grid's rounding. Its
// constants are from public data sheets; bench/gpu/fit.py fits them to what a GPU measured. What the
// Triton kernels keep of a rate is assumed: no GPU has run them.

#include "plan.h"

#include <algorithm>
#include <cmath>

namespace lccl
{
namespace
{

//! The time model's constants for one kind of GPU, near its boost clock.
struct Kind
{
    double tensorFlopsPerClock; //!< of one multiprocessor
    double coreFlopsPerClock;
    double cacheBytesPerClock;
    double dramBytes;           //!< per second
    double tritonFlopsPerClock; //!< of one multiprocessor, by the instructions that Triton chooses
    double rowsShare;           //!< what is kept of that, assumed: by gathered rows
    double boxesShare;          //!< and by boxes
};

Kind kindOf(int32_t computeCapability)
{
    switch (computeCapability)
    {
    // mma.sync reaches about 0.62 of what wgmma does on 9.0.
    case 90: return {0.62 * 4096, 256, 27, 4.3e12, 4096, 0.45, 0.6};
    case 100: return {1024, 256, 30, 7e12, 8192, 0.4, 0.5};
    case 80: return {2048, 128, 40, 1.9e12, 2048, 0.55, 0.55};
    case 86:
    case 89: return {512, 256, 30, 0.9e12, 512, 0.6, 0.6};
    default: return {1024, 256, 30, 1.5e12, 1024, 0.6, 0.65};
    }
}

//! Share of the tensor rate that a tile's main loop keeps: it falls with the bytes of shared memory
//! read per product.
double tileEfficiency(lccl_conv_config const& config, lccl_rates const& rates)
{
    double const rows = static_cast<double>(config.tile_m) / config.warps_m;
    double const columns = static_cast<double>(config.tile_n) / config.warps_n;
    double const reuse = rows * columns / (rows + columns); // 16 for 32x32, 21 for 64x32, 32 for 64x64
    return std::min(rates.tile_most, rates.tile_base + rates.tile_reuse * reuse);
}

//! Share of CUDA cores' rate that the plain kernel's main loop keeps.
constexpr double kCoreEfficiency = 0.4;

//! A call's sizes as the model sees them.
struct Amounts
{
    double elementBytes;
    double pixels;
    double rows;       //!< that the main kernel computes
    double closedRows; //!< that it fills
    double xBytes;
    double rowBytes; //!< of y
};

Amounts amountsOf(lccl_conv_params const& p, Sizes const& sizes, lccl_conv_config const& config)
{
    Amounts amounts{};
    amounts.elementBytes = p.dtype == LCCL_FLOAT32 ? 4 : 2;
    amounts.pixels = static_cast<double>(sizes.pixels);
    double const share = p.density < 0 ? kDensityIfUnknown : p.density;
    double const listed = share * static_cast<double>(sizes.cells) * p.grid * p.grid;
    bool const all = config.family == LCCL_DENSE || listed > kIdentityShare * amounts.pixels;
    amounts.rows = all ? amounts.pixels : std::max(listed, 1.0);
    amounts.closedRows = all ? 0 : (1 - share) * amounts.pixels;
    amounts.xBytes = static_cast<double>(p.n) * p.h * p.w * p.c * amounts.elementBytes;
    amounts.rowBytes = static_cast<double>(sizes.outputChannels) * amounts.elementBytes;
    return amounts;
}

bool runs(lccl_conv_params const& p, lccl_kernel kernel)
{
    return p.kernels == 0 || (p.kernels & kernel) != 0;
}

double gateSeconds(lccl_conv_params const& p, Sizes const& sizes, Amounts const& amounts, lccl_rates const& rates, int32_t sms)
{
    double const cells = static_cast<double>(sizes.cells);
    double const lists = cells * 8 / rates.dram_bytes; // a gate and a number for each cell
    if (p.has_gate_weight == 0)
    {
        return rates.gate_latency + lists;
    }
    double const products = cells * p.gate_r * p.gate_s * p.c;
    double const asked = products * amounts.elementBytes;
    double const read = std::min(asked, amounts.xBytes);
    // A product costs its FMA and about as much again for the conversion of its operands.
    double const cores = 4 * products / (rates.core_flops * sms);
    double const loads = asked / (rates.gate_bytes * sms);
    return rates.gate_latency + lists + std::max({cores, loads, read / rates.dram_bytes});
}

//! The main kernel in Triton and the one that writes closed pixels.
double tritonSeconds(lccl_conv_params const& p, int32_t sms, Sizes const& sizes, Amounts const& amounts,
    lccl_conv_config const& config, lccl_rates const& rates)
{
    double const share = p.density < 0 ? kDensityIfUnknown : p.density;
    bool const all = config.family == LCCL_DENSE || share > kIdentityShare;
    // Cells are computed whole, also where they reach out of the map.
    double const rows = std::max(1.0, (all ? 1.0 : share) * static_cast<double>(sizes.cells) * p.grid * p.grid);
    double const tiles = std::ceil(rows / config.tile_m) * std::ceil(static_cast<double>(p.k) / config.tile_n);
    double const steps = std::ceil(static_cast<double>(p.c) / config.tile_k) * p.r * p.s;
    double const rounds = std::ceil(tiles / sms);
    constexpr double kTf32 = 6; // half the rate, and three products for each
    double const rate = (isBoxes(config) ? rates.boxes_flops : rates.rows_flops) / (p.dtype == LCCL_FLOAT32 ? kTf32 : 1);
    double const math = rounds * steps * 2.0 * config.tile_m * config.tile_n * config.tile_k / rate;
    double const stepBytes = (config.tile_m + config.tile_n) * static_cast<double>(config.tile_k) * amounts.elementBytes;
    double const cache = rounds * steps * stepBytes / rates.cache_bytes;
    double const touched = std::min(1.0, rows * p.r * p.s / amounts.pixels);
    double const moves = p.has_residual == 0 ? 1 : 2;
    double const open = std::min(share * amounts.pixels, rows) * amounts.rowBytes * moves;
    double const dram = (touched * amounts.xBytes + open) / rates.dram_bytes;
    double const closed = (1 - share) * amounts.pixels * amounts.rowBytes * moves / rates.dram_bytes;
    return rates.main_latency + std::max({math, cache, dram}) + rates.next_launch + closed;
}

double mainSeconds(lccl_conv_params const& p, lccl_device const& device, Sizes const& sizes, Amounts const& amounts,
    lccl_conv_config const& config, lccl_rates const& rates)
{
    int32_t const sms = device.sm_count;
    bool const mma = config.math == LCCL_MMA;
    double const tiles = std::ceil(amounts.rows / config.tile_m)
        * std::ceil(static_cast<double>(sizes.outputChannels) / config.tile_n);
    double const depth = mma ? static_cast<double>(sizes.channelChunks) * kChunkElements : p.c;
    double const steps = std::ceil(static_cast<double>(p.r) * p.s * depth / config.tile_k);
    double const resident = residentBlocks(device, config);
    double const splits = mayShareTiles(config) && tiles * 2 <= resident
        ? std::max(1.0,
              std::min({std::floor(resident / tiles), std::floor(steps / kMinSplitSteps), static_cast<double>(kMaxSplits)}))
        : 1.0;
    double const rounds = std::ceil(tiles * splits / sms);
    double const unitFlops = 2.0 * config.tile_m * config.tile_n * config.tile_k * steps / splits;
    double const rate = mma ? rates.tensor_flops * tileEfficiency(config, rates) : rates.core_flops * kCoreEfficiency;
    double const math = rounds * unitFlops / rate;

    // Closed pixels are filled between products: their instructions take turns with those of the
    // main loop.
    double const fillBytes = p.has_residual == 0 ? rates.fill_bytes : rates.fill_residual_bytes;
    double const fill = amounts.closedRows * amounts.rowBytes / (fillBytes * sms);
    double const stepBytes = (config.tile_m + config.tile_n) * static_cast<double>(config.tile_k) * amounts.elementBytes;
    double const cache = rounds * steps / splits * stepBytes / rates.cache_bytes;
    double const touched = std::min(1.0, amounts.rows * p.r * p.s / amounts.pixels);
    double const yBytes = amounts.pixels * amounts.rowBytes * (p.has_residual == 0 ? 1 : 2);
    double const dram = (touched * amounts.xBytes + yBytes) / rates.dram_bytes;
    double const join = splits > 1 ? 2 * tiles * splits * config.tile_m * config.tile_n * 4 / (rates.cache_bytes * sms) : 0;
    return rates.main_latency + std::max({math + fill, cache, dram}) + join;
}

} // namespace

lccl_rates ratesOf(lccl_device const& device)
{
    constexpr double kClock = 1.6e9;
    Kind const kind = kindOf(device.compute_capability);
    lccl_rates rates{};
    rates.tensor_flops = kind.tensorFlopsPerClock * kClock;
    rates.core_flops = kind.coreFlopsPerClock * kClock;
    rates.tile_base = 0.45;
    rates.tile_reuse = 0.0125;
    rates.tile_most = 0.85;
    rates.cache_bytes = kind.cacheBytesPerClock * kClock;
    rates.dram_bytes = kind.dramBytes;
    rates.first_launch = 2.5e-6;
    rates.next_launch = 1.0e-6;
    rates.gate_latency = 1.5e-6;
    rates.main_latency = 1.0e-6;
    // Two blocks of 256 threads with four loads of 16 bytes each, answered after 0.6 us.
    rates.gate_bytes = 2 * 256 * 4 * 16 / 0.6e-6;
    // 22 instructions for each 16 bytes of a lane without a residual (counted in SASS), four
    // instructions of a warp a clock.
    rates.fill_bytes = 4 * 32 * 16 / 22.0 * kClock;
    rates.fill_residual_bytes = 4 * 32 * 16 / 90.0 * kClock; // about 90 with one
    rates.rows_flops = kind.tritonFlopsPerClock * kind.rowsShare * kClock;
    rates.boxes_flops = kind.tritonFlopsPerClock * kind.boxesShare * kClock;
    return rates;
}

double predict(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config, lccl_rates const& rates)
{
    Sizes const sizes = sizesOf(p);
    if (sizes.pixels == 0)
    {
        return 0;
    }
    Amounts const amounts = amountsOf(p, sizes, config);
    bool const packs = config.math == LCCL_MMA && p.c % kChunkElements != 0 && runs(p, LCCL_KERNEL_PACK);
    bool const gates = runs(p, LCCL_KERNEL_GATE);
    bool const multiplies = runs(p, LCCL_KERNEL_MAIN);
    int32_t const kernels = static_cast<int32_t>(packs) + static_cast<int32_t>(gates) + static_cast<int32_t>(multiplies);
    double seconds = rates.first_launch + std::max(kernels - 1, 0) * rates.next_launch;
    seconds += gates ? gateSeconds(p, sizes, amounts, rates, device.sm_count) : 0;
    if (isTriton(config))
    {
        seconds += gates ? rates.next_launch : 0; // the count is set to 0 first
        seconds += multiplies ? tritonSeconds(p, device.sm_count, sizes, amounts, config, rates) : 0;
        return seconds * 1e6;
    }
    seconds += multiplies ? mainSeconds(p, device, sizes, amounts, config, rates) : 0;
    return seconds * 1e6;
}

} // namespace lccl
