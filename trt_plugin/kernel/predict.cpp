// The model behind the choice of a configuration: a roofline with the tile grid's rounding. Nothing in it is measured.

#include "plan.h"

#include <algorithm>
#include <cmath>

namespace lccl
{
namespace
{

//! Rates of one multiprocessor and of the whole device, from public data sheets; clocks near the boost clock.
struct Rates
{
    double tensorFlops;  //!< mma.sync with float32 sums, per second and multiprocessor
    double coreFlops;    //!< float32 FMA on CUDA cores, per second and multiprocessor
    double dramBytes;    //!< per second
    double cacheBytes;   //!< L2, per second and multiprocessor
};

Rates ratesOf(int32_t computeCapability)
{
    constexpr double kClock = 1.6e9;
    switch (computeCapability)
    {
    // mma.sync reaches about 0.62 of what wgmma does on 9.0.
    case 90: return {0.62 * 4096 * kClock, 256 * kClock, 4.3e12, 27 * kClock};
    case 80: return {2048 * kClock, 128 * kClock, 1.9e12, 40 * kClock};
    case 86:
    case 89: return {512 * kClock, 256 * kClock, 0.9e12, 30 * kClock};
    default: return {1024 * kClock, 256 * kClock, 1.5e12, 30 * kClock};
    }
}

//! Share of the tensor rate that a tile's main loop keeps: it falls with the bytes of shared memory read per product.
double tileEfficiency(lccl_conv_config const& config)
{
    double const rows = static_cast<double>(config.tile_m) / config.warps_m;
    double const columns = static_cast<double>(config.tile_n) / config.warps_n;
    double const reuse = rows * columns / (rows + columns); // 16 for 32x32, 21 for 64x32, 32 for 64x64
    return std::min(0.85, 0.45 + 0.0125 * reuse);
}

constexpr double kFirstLaunch = 2.5e-6;
constexpr double kNextLaunch = 1.0e-6;

//! Rows that the main kernel computes.
double expectedRows(lccl_conv_params const& p, Sizes const& sizes, lccl_conv_config const& config)
{
    double const share = p.density < 0 ? kDensityIfUnknown : p.density;
    double const listed = share * static_cast<double>(sizes.cells) * p.grid * p.grid;
    bool const all = config.family == LCCL_DENSE || listed > 0.85 * static_cast<double>(sizes.pixels);
    return all ? static_cast<double>(sizes.pixels) : std::max(listed, 1.0);
}

double gateSeconds(lccl_conv_params const& p, Sizes const& sizes, Rates const& rates, int32_t sms)
{
    if (p.gate_weight == nullptr)
    {
        return 0.5e-6;
    }
    double const products = static_cast<double>(sizes.cells) * p.gate_r * p.gate_s * p.c;
    double const elementBytes = p.dtype == LCCL_FLOAT32 ? 4 : 2;
    double const read = std::min(products, static_cast<double>(p.n) * p.h * p.w * p.c) * elementBytes;
    // A product costs its FMA and about as much again for the conversion of its operands.
    return std::max(4 * products / (rates.coreFlops * sms), read / rates.dramBytes) + 1.5e-6;
}

} // namespace

double predict(lccl_conv_params const& p, lccl_device const& device, lccl_conv_config const& config)
{
    Sizes const sizes = sizesOf(p);
    if (sizes.pixels == 0)
    {
        return 0;
    }
    Rates const rates = ratesOf(device.compute_capability);
    int32_t const sms = device.sm_count;
    bool const mma = config.engine == LCCL_MMA;
    double const rows = expectedRows(p, sizes, config);
    double const tilesM = std::ceil(rows / config.tile_m);
    double const tiles = tilesM * std::ceil(static_cast<double>(sizes.outputChannels) / config.tile_n);
    double const steps = std::ceil(static_cast<double>(p.r) * p.s * (mma ? sizes.channelChunks * 8.0 : p.c) / config.tile_k);
    double const resident = residentBlocks(device, config);

    double const splits = mayShareTiles(config) && tiles * 2 <= resident
        ? std::max(1.0, std::min({std::floor(resident / tiles), std::floor(steps / kMinSplitSteps), static_cast<double>(kMaxSplits)}))
        : 1.0;
    double const rounds = std::ceil(tiles * splits / sms);
    double const unitFlops = 2.0 * config.tile_m * config.tile_n * config.tile_k * steps / splits;
    double const rate = mma ? rates.tensorFlops * tileEfficiency(config) : rates.coreFlops * 0.4;
    double const math = rounds * unitFlops / rate;

    double const elementBytes = p.dtype == LCCL_FLOAT32 ? 4 : 2;
    double const stepBytes = (config.tile_m + config.tile_n) * static_cast<double>(config.tile_k) * elementBytes;
    double const cache = rounds * steps / splits * stepBytes / rates.cacheBytes;
    double const pixels = static_cast<double>(sizes.pixels);
    double const touched = std::min(1.0, rows * p.r * p.s / pixels);
    double const xBytes = static_cast<double>(p.n) * p.h * p.w * p.c * elementBytes;
    double const yBytes = pixels * static_cast<double>(sizes.outputChannels) * elementBytes * (p.residual == nullptr ? 1 : 2);
    double const dram = (touched * xBytes + yBytes) / rates.dramBytes;
    double const join = splits > 1 ? 2 * tiles * splits * config.tile_m * config.tile_n * 4 / (rates.cacheBytes * sms) : 0;

    double seconds = kFirstLaunch + kNextLaunch + gateSeconds(p, sizes, rates, sms) + std::max({math, cache, dram}) + join;
    if (config.family != LCCL_DENSE)
    {
        seconds += kNextLaunch + 1.0e-6 + static_cast<double>(sizes.cells) * 12 / rates.dramBytes;
    }
    if (mma && p.c % kChunkElements != 0)
    {
        seconds += kNextLaunch;
    }
    return seconds * 1e6;
}

} // namespace lccl
