// The C interface: checks the callers' arguments and calls planning and launching.

#include "launch.h"
#include "launch_triton.h"

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
        if (lccl_conv_choose(&params, &device) != 0)
        {
            return {};
        }
        std::string const why = lccl::rejectDevice(device);
        return why.empty() ? "no configuration runs this call on this device" : why;
    }
    lccl_conv_config const* const config = lccl::findConfiguration(id);
    if (config == nullptr)
    {
        return "this version has no configuration with that id: it comes from another version";
    }
    return lccl::rejectConfiguration(params, device, *config);
}

//! The same of a library that has to hold code for the device.
std::string rejectOn(lccl_conv_params const& params, lccl_device const& device, int32_t id)
{
    std::string const reason = reject(params, device, id);
    return reason.empty() && id != 0 ? lccl::rejectCode(params, device, *lccl::findConfiguration(id)) : reason;
}

//! A pointer of a call, and what the call's sizes and flags require of it.
struct Pointer
{
    char const* name;
    void const* address;
    bool isNeeded;
    bool mayBeNull; //!< where it is needed: it then has a value of its own
    bool isVector;  //!< read or written 16 bytes at a time
};

std::string rejectPointer(Pointer const& pointer)
{
    if (pointer.isNeeded && !pointer.mayBeNull && pointer.address == nullptr)
    {
        return std::string(pointer.name) + " is null, and the call needs it";
    }
    if (!pointer.isNeeded && pointer.address != nullptr)
    {
        return std::string(pointer.name)
            + " is given, and the call says that it has none: set its flag or size, or leave it null";
    }
    if (pointer.isVector && reinterpret_cast<uintptr_t>(pointer.address) % 16 != 0)
    {
        return std::string(pointer.name) + " is not aligned: its address must be a multiple of 16";
    }
    return {};
}

//! Why lccl_conv_launch refuses the pointers of a call that is supported, or an empty string.
std::string rejectPointers(
    lccl_conv_params const& p, lccl_device const& device, int32_t config, void const* workspace, size_t workspaceSize)
{
    Pointer const pointers[] = {
        {"x", p.x, true, false, true},
        {"weight", p.weight, true, false, true},
        {"bias", p.bias, true, false, false},
        {"gate_weight", p.gate_weight, p.has_gate_weight != 0, false, true},
        {"gate_bias", p.gate_bias, true, true, false},
        {"gate", p.gate, p.has_gate != 0, false, false},
        {"post_scale", p.post_scale, p.post_scale_size != 0, false, false},
        {"post_bias", p.post_bias, p.post_bias_size != 0, false, false},
        {"residual", p.residual, p.has_residual != 0, false, true},
        {"y", p.y, true, false, true},
        {"the workspace", workspace, true, false, true},
    };
    for (Pointer const& pointer : pointers)
    {
        std::string const reason = rejectPointer(pointer);
        if (!reason.empty())
        {
            return reason;
        }
    }
    size_t const needed = lccl_conv_workspace(&p, &device, config);
    if (workspaceSize < needed)
    {
        return "the workspace has " + std::to_string(workspaceSize) + " bytes, and the call needs " + std::to_string(needed);
    }
    return {};
}

//! Why a configuration, which must be named, cannot run a call, or an empty string.
std::string rejectNamed(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    if (params == nullptr || device == nullptr)
    {
        return "params and device must not be null";
    }
    return config == 0 ? "0 names no configuration: lccl_conv_choose gives one" : reject(*params, *device, config);
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
    std::string const why = params == nullptr || device == nullptr ? "params and device must not be null"
                                                                   : rejectOn(*params, *device, config);
    copyReason(why, reason, reason_size);
    return why.empty() ? 1 : 0;
}

void lccl_conv_rates(lccl_device const* device, lccl_rates* rates)
{
    *rates = lccl::ratesOf(*device);
}

double lccl_conv_predict(lccl_conv_params const* params, lccl_device const* device, int32_t config, lccl_rates const* rates)
{
    if (!rejectNamed(params, device, config).empty() || !rejectOn(*params, *device, config).empty())
    {
        return -1;
    }
    return lccl::predict(
        *params, *device, *lccl::findConfiguration(config), rates == nullptr ? lccl::ratesOf(*device) : *rates);
}

int32_t lccl_conv_choose(lccl_conv_params const* params, lccl_device const* device)
{
    int32_t best = 0;
    double bestTime = 0;
    for (int32_t i = 0; i < lccl::configurationCount(); ++i)
    {
        int32_t const id = lccl::configurationAt(i)->id;
        double const time = lccl_conv_predict(params, device, id, nullptr);
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
    if (!rejectNamed(params, device, config).empty())
    {
        return 0;
    }
    return lccl::layOutWorkspace(*params, *device, *lccl::findConfiguration(config)).bytes;
}

int32_t lccl_conv_resident_blocks(lccl_device const* device, int32_t config)
{
    lccl_conv_config const* const found = lccl::findConfiguration(config);
    return found == nullptr || device == nullptr ? 0 : lccl::residentBlocks(*device, *found);
}

cudaError_t lccl_conv_load(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    if (!rejectNamed(params, device, config).empty())
    {
        return cudaErrorNotSupported;
    }
    if (params->n == 0)
    {
        return cudaSuccess;
    }
    lccl_conv_config const& found = *lccl::findConfiguration(config);
    return found.math == LCCL_TRITON ? lccl::loadTriton(*params, *device, found) : lccl::loadCuda(*params, *device, found);
}

int32_t lccl_conv_check(lccl_conv_params const* params, lccl_device const* device, int32_t config, void const* workspace,
    size_t workspace_size, char* reason, size_t reason_size)
{
    std::string why = rejectNamed(params, device, config);
    if (why.empty() && params->n > 0)
    {
        why = rejectPointers(*params, *device, config, workspace, workspace_size);
    }
    copyReason(why, reason, reason_size);
    return why.empty() ? 1 : 0;
}

cudaError_t lccl_conv_launch(lccl_conv_params const* params, lccl_device const* device, int32_t config, void* workspace,
    size_t workspace_size, cudaStream_t stream)
{
    if (!rejectNamed(params, device, config).empty())
    {
        return cudaErrorNotSupported;
    }
    if (params->n == 0)
    {
        return cudaSuccess;
    }
    if (!rejectPointers(*params, *device, config, workspace, workspace_size).empty())
    {
        return cudaErrorInvalidValue;
    }
    lccl_conv_config const& found = *lccl::findConfiguration(config);
    return found.math == LCCL_TRITON ? lccl::launchTriton(*params, *device, found, workspace, stream)
                                     : lccl::launchCuda(*params, *device, found, workspace, stream);
}
}
