// The C interface: checks what callers hand in, and hands it on.

#include "launch.h"

#include <cstdio>
#include <cstring>

namespace
{

void copyReason(std::string const& reason, char* to, size_t size)
{
    if (to != nullptr && size > 0)
    {
        std::snprintf(to, size, "%s", reason.c_str());
    }
}

std::string reject(lccl_conv_params const& params, lccl_device const& device, int32_t id)
{
    std::string const reason = lccl::rejectCall(params);
    if (!reason.empty())
    {
        return reason;
    }
    if (id == 0)
    {
        return lccl_conv_choose(&params, &device) == 0 ? "no configuration runs this call on this device" : std::string{};
    }
    lccl_conv_config const* const config = lccl::findConfiguration(id);
    if (config == nullptr)
    {
        return "this version has no configuration with that id: it comes from another version";
    }
    return lccl::rejectConfiguration(params, device, *config);
}

//! What lccl_conv_launch needs besides a call that is supported.
bool pointersAreRight(lccl_conv_params const& p, void const* workspace)
{
    for (void const* const needed : {p.x, p.weight, static_cast<void const*>(p.bias), static_cast<void const*>(p.y), workspace})
    {
        if (needed == nullptr)
        {
            return false;
        }
    }
    if ((p.post_scale_size > 0 && p.post_scale == nullptr) || (p.post_bias_size > 0 && p.post_bias == nullptr))
    {
        return false;
    }
    for (void const* const vectors : {p.x, p.weight, p.gate_weight, p.residual, static_cast<void const*>(p.y), workspace})
    {
        if (reinterpret_cast<uintptr_t>(vectors) % 16 != 0)
        {
            return false;
        }
    }
    return true;
}

} // namespace

extern "C"
{

int32_t lccl_conv_config_count(void)
{
    return lccl::configurationCount();
}

lccl_conv_config const* lccl_conv_config_at(int32_t index)
{
    return lccl::configurationAt(index);
}

int32_t lccl_conv_supported(
    lccl_conv_params const* params, lccl_device const* device, int32_t config, char* reason, size_t reason_size)
{
    std::string const why
        = params == nullptr || device == nullptr ? "params and device must not be null" : reject(*params, *device, config);
    copyReason(why, reason, reason_size);
    return why.empty() ? 1 : 0;
}

double lccl_conv_predict(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    if (config == 0 || lccl_conv_supported(params, device, config, nullptr, 0) == 0)
    {
        return -1;
    }
    return lccl::predict(*params, *device, *lccl::findConfiguration(config));
}

int32_t lccl_conv_choose(lccl_conv_params const* params, lccl_device const* device)
{
    int32_t best = 0;
    double bestTime = 0;
    for (int32_t i = 0; i < lccl::configurationCount(); ++i)
    {
        int32_t const id = lccl::configurationAt(i)->id;
        double const time = lccl_conv_predict(params, device, id);
        if (time >= 0 && (best == 0 || time < bestTime))
        {
            best = id;
            bestTime = time;
        }
    }
    return best;
}

size_t lccl_conv_workspace(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    if (config == 0 || lccl_conv_supported(params, device, config, nullptr, 0) == 0)
    {
        return 0;
    }
    return lccl::layOutWorkspace(*params, *device, *lccl::findConfiguration(config)).bytes;
}

cudaError_t lccl_conv_load(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    if (config == 0 || lccl_conv_supported(params, device, config, nullptr, 0) == 0)
    {
        return cudaErrorNotSupported;
    }
    return params->n == 0 ? cudaSuccess : lccl::load(*params, *device, *lccl::findConfiguration(config));
}

cudaError_t lccl_conv_launch(lccl_conv_params const* params, lccl_device const* device, int32_t config, void* workspace,
    size_t workspace_size, cudaStream_t stream)
{
    if (params == nullptr || device == nullptr)
    {
        return cudaErrorInvalidValue;
    }
    if (config == 0 || lccl_conv_supported(params, device, config, nullptr, 0) == 0)
    {
        return cudaErrorNotSupported;
    }
    if (params->n == 0)
    {
        return cudaSuccess;
    }
    if (!pointersAreRight(*params, workspace) || workspace_size < lccl_conv_workspace(params, device, config))
    {
        return cudaErrorInvalidValue;
    }
    return lccl::launch(*params, *device, *lccl::findConfiguration(config), workspace, stream);
}
}
