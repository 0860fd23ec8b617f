// A library of CUDA kernels some of whose configurations crash, hang or give wrong results: the
// emulated machine's, called through.
//
// LCCL_FAKE_LIBRARY: path of the emulated machine's library. LCCL_FAKE_ONLY: names of the
// configurations that it has, with commas. LCCL_FAKE_CRASH, LCCL_FAKE_HANG, LCCL_FAKE_WRONG,
// LCCL_FAKE_ERROR: names of those that go wrong; ERROR is of a context that is broken.
#include "lccl_cuda.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <unistd.h>
#include <vector>

namespace
{

template <typename Function>
Function real(Function, char const* name)
{
    static void* const library = dlopen(std::getenv("LCCL_FAKE_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
    void* const found = library == nullptr ? nullptr : dlsym(library, name);
    if (found == nullptr)
    {
        std::abort();
    }
    return reinterpret_cast<Function>(found);
}

#define REAL(function) real(&function, #function)

bool isNamed(char const* variable, char const* name)
{
    char const* const names = std::getenv(variable);
    return names != nullptr && ("," + std::string(names) + ",").find("," + std::string(name) + ",") != std::string::npos;
}

std::vector<lccl_conv_config const*> const& table()
{
    static std::vector<lccl_conv_config const*> const rows = []
    {
        std::vector<lccl_conv_config const*> kept;
        for (int32_t i = 0; i < REAL(lccl_conv_config_count)(); ++i)
        {
            lccl_conv_config const* const row = REAL(lccl_conv_config_at)(i);
            if (std::getenv("LCCL_FAKE_ONLY") == nullptr || isNamed("LCCL_FAKE_ONLY", row->name))
            {
                kept.push_back(row);
            }
        }
        return kept;
    }();
    return rows;
}

char const* nameOf(int32_t config)
{
    for (lccl_conv_config const* row : table())
    {
        if (row->id == config)
        {
            return row->name;
        }
    }
    return "";
}

} // namespace

extern "C"
{
int32_t lccl_conv_config_count(void)
{
    return static_cast<int32_t>(table().size());
}

lccl_conv_config const* lccl_conv_config_at(int32_t index)
{
    return index >= 0 && index < lccl_conv_config_count() ? table()[static_cast<size_t>(index)] : nullptr;
}

cudaError_t lccl_device_query(int32_t ordinal, lccl_device* device)
{
    return REAL(lccl_device_query)(ordinal, device);
}

int32_t lccl_conv_resident_blocks(lccl_device const* device, int32_t config)
{
    return REAL(lccl_conv_resident_blocks)(device, config);
}

int32_t lccl_conv_supported(
    lccl_conv_params const* params, lccl_device const* device, int32_t config, char* reason, size_t size)
{
    return REAL(lccl_conv_supported)(params, device, config, reason, size);
}

int32_t lccl_conv_choose(lccl_conv_params const* params, lccl_device const* device)
{
    int32_t best = 0;
    for (lccl_conv_config const* row : table())
    {
        double const time = lccl_conv_predict(params, device, row->id, nullptr);
        if (time >= 0 && (best == 0 || time < lccl_conv_predict(params, device, best, nullptr)))
        {
            best = row->id;
        }
    }
    return best;
}

void lccl_conv_rates(lccl_device const* device, lccl_rates* rates)
{
    REAL(lccl_conv_rates)(device, rates);
}

double lccl_conv_predict(lccl_conv_params const* params, lccl_device const* device, int32_t config, lccl_rates const* rates)
{
    return REAL(lccl_conv_predict)(params, device, config, rates);
}

size_t lccl_conv_workspace(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    return REAL(lccl_conv_workspace)(params, device, config);
}

cudaError_t lccl_conv_load(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    return REAL(lccl_conv_load)(params, device, config);
}

int32_t lccl_conv_check(lccl_conv_params const* params, lccl_device const* device, int32_t config, void const* workspace,
    size_t workspaceSize, char* reason, size_t reasonSize)
{
    return REAL(lccl_conv_check)(params, device, config, workspace, workspaceSize, reason, reasonSize);
}

cudaError_t lccl_conv_launch(lccl_conv_params const* params, lccl_device const* device, int32_t config, void* workspace,
    size_t workspaceSize, cudaStream_t stream)
{
    char const* const name = nameOf(config);
    if (isNamed("LCCL_FAKE_CRASH", name))
    {
        std::raise(SIGSEGV);
    }
    while (isNamed("LCCL_FAKE_HANG", name))
    {
        pause();
    }
    if (isNamed("LCCL_FAKE_ERROR", name))
    {
        return cudaErrorLaunchFailure;
    }
    cudaError_t const error = REAL(lccl_conv_launch)(params, device, config, workspace, workspaceSize, stream);
    if (error == cudaSuccess && params->n > 0 && isNamed("LCCL_FAKE_WRONG", name))
    {
        static_cast<unsigned char*>(params->y)[1] ^= 0x10;
    }
    return error;
}

} // extern "C"
