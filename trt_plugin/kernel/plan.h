// Plans a call on the host: what may run, how much memory it needs, the kernels' arguments. Pure
// functions, no CUDA.
#pragma once

#include "arguments.h"
#include "configurations.h"

#include <cstddef>
#include <string>

namespace lccl
{

//! The density that is assumed where it is unknown.
constexpr float kDensityIfUnknown = 0.5F;
//! Above this share of all pixels, computing every row costs less than following the list.
constexpr double kIdentityShare = 0.85;

//! Sizes that follow from the parameters, in 64 bits until they are known to fit.
struct Sizes
{
    int64_t ho, wo;
    int64_t hg, wg;
    int64_t cells;  //!< n * hg * wg
    int64_t pixels; //!< n * ho * wo
    int64_t channelChunks;
    int64_t outputChannels; //!< Channels of y that are written.
};

Sizes sizesOf(lccl_conv_params const& params);

//! Why no configuration can run the call, or an empty string.
std::string rejectCall(lccl_conv_params const& params);

//! Why this configuration cannot, or an empty string; \param device that the call is planned for.
std::string rejectConfiguration(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

//! Why this library holds no code of a configuration for a device, or an empty string. An engine runs on another
//! device than it was planned for, and needs code for that one alone.
std::string rejectCode(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

//! Whether a configuration runs kernels that Triton compiled.
constexpr bool isTriton(lccl_conv_config const& config)
{
    return config.math == LCCL_TRITON;
}

//! Whether its main kernel computes boxes of pixels.
bool isBoxes(lccl_conv_config const& config);

//! Blocks of a configuration's main kernel that run at once on the device.
int32_t residentBlocks(lccl_device const& device, lccl_conv_config const& config);

//! Whether blocks of this configuration may share a tile, each a part of the reduction.
bool mayShareTiles(lccl_conv_config const& config);

//! Offsets of the parts of the workspace, in bytes.
struct Workspace
{
    size_t cellGate;
    size_t cellList;
    size_t segmentCounts;
    size_t tileCounters;
    size_t partials;
    size_t packedWeight;
    size_t bytes;
    bool packs; //!< The weights are copied into the workspace with padded channels.
};

Workspace layOutWorkspace(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

//! The arguments of a call's kernels, and how many blocks of each run.
struct Plan
{
    Arguments arguments;
    bool packs; //!< Whether each kernel runs.
    bool gates;
    bool multiplies;
    bool loadOnly; //!< Kernels are loaded, and nothing is enqueued.
    int32_t packBlocks;
    int32_t gateBlocks;
    int32_t mainBlocks;
};

//! For a call and a configuration that were not rejected, with n > 0.
Plan makePlan(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config, void* workspace);

//! The model's constants for a device.
lccl_rates ratesOf(lccl_device const& device);

//! Predicted microseconds of a configuration that was not rejected.
double predict(
    lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config, lccl_rates const& rates);

} // namespace lccl
