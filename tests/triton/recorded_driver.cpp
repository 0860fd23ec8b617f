// Stands for CUDA's runtime and driver: hands what it is asked for to functions that a test sets.

#include "cubins.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <list>
#include <vector>

#define RECORDED_API extern "C" __attribute__((visibility("default")))

namespace
{

//! What a test sets. Each returns an error code.
struct Recorder
{
    int (*load)(void const* code, uint64_t* library);
    int (*find)(uint64_t library, char const* name, uint64_t* kernel);
    int (*prepare)(uint64_t kernel, int attribute, int value, int device);
    int (*encode)(void* descriptor, int type, unsigned rank, void* address, uint64_t const* sizes, uint64_t const* strides,
        unsigned const* box, unsigned const* steps, int const* options);
    int (*launch)(uint64_t kernel, unsigned const* shape, uint64_t shared, void* stream, void** arguments, int attributes);
    int (*place)(uint64_t kernel, int device); //!< loads it on a device
    int (*clear)(void* address, int value, uint64_t bytes, void* stream);
};

Recorder gRecorder{};
int gDevice = 0;
int gDriverVersion = 13010;
int gCapability = 90;
int gUnloaded = 0;

//! A parameter whose row of the table a test has spoiled.
struct Spoiled
{
    int32_t cubin;
    int32_t parameter;
    lccl::Parameter row;
};
std::vector<Spoiled> gSpoiled;

//! Copies of the table: the last one is in use. None goes away, since addresses say what was loaded.
struct Copy
{
    std::vector<lccl::Cubin> cubins;
    std::vector<std::vector<lccl::Parameter>> rows;
};
std::list<Copy> gCopies;

CUresult encodeTiled(CUtensorMap* descriptor, CUtensorMapDataType type, cuuint32_t rank, void* address, cuuint64_t const* sizes,
    cuuint64_t const* strides, cuuint32_t const* box, cuuint32_t const* steps, CUtensorMapInterleave interleave,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
    if (reinterpret_cast<uintptr_t>(descriptor) % 64 != 0)
    {
        return CUDA_ERROR_INVALID_VALUE;
    }
    int const options[] = {interleave, swizzle, promotion, fill};
    return static_cast<CUresult>(gRecorder.encode(descriptor, type, rank, address, sizes, strides, box, steps, options));
}

} // namespace

namespace lccl
{
extern "C" Cubin const* __real__ZN4lccl9allCubinsERi(int32_t& count);

extern "C" Cubin const* __wrap__ZN4lccl9allCubinsERi(int32_t& count)
{
    Cubin const* const real = __real__ZN4lccl9allCubinsERi(count);
    if (gCopies.empty())
    {
        gCopies.emplace_back();
    }
    Copy& copy = gCopies.back();
    if (copy.cubins.empty())
    {
        copy.cubins.assign(real, real + count);
        for (Cubin& cubin : copy.cubins)
        {
            copy.rows.emplace_back(cubin.parameters, cubin.parameters + cubin.parameterCount);
            cubin.parameters = copy.rows.back().data();
        }
        for (Spoiled const& spoiled : gSpoiled)
        {
            std::vector<Parameter>& rows = copy.rows[static_cast<size_t>(spoiled.cubin)];
            if (static_cast<size_t>(spoiled.parameter) < rows.size())
            {
                rows[static_cast<size_t>(spoiled.parameter)] = spoiled.row;
            }
        }
    }
    return copy.cubins.data();
}
} // namespace lccl

RECORDED_API void lccl_recorded_set(Recorder const* recorder)
{
    gRecorder = *recorder;
}

RECORDED_API void lccl_recorded_device(int device, int driverVersion)
{
    gDevice = device;
    gDriverVersion = driverVersion;
}

//! The compute capability of all devices whose properties were not asked for before.
RECORDED_API void lccl_recorded_capability(int capability)
{
    gCapability = capability;
}

//! Libraries that were unloaded.
RECORDED_API int lccl_recorded_unloaded()
{
    return gUnloaded;
}

//! From here on cubins that were loaded are loaded again: the table is at another place.
RECORDED_API void lccl_recorded_forget()
{
    gCopies.emplace_back();
}

RECORDED_API int32_t lccl_recorded_cubins()
{
    int32_t count = 0;
    lccl::allCubins(count);
    return count;
}

//! A cubin's function, code, parameters and other numbers.
RECORDED_API lccl::Cubin const* lccl_recorded_cubin(int32_t index)
{
    int32_t count = 0;
    return lccl::allCubins(count) + index;
}

//! Changes a row of a cubin's parameters; a negative cubin: all are as they were.
RECORDED_API void lccl_recorded_spoil(int32_t cubin, int32_t parameter, lccl::Parameter const* row)
{
    if (cubin < 0)
    {
        gSpoiled.clear();
    }
    else
    {
        gSpoiled.push_back({cubin, parameter, *row});
    }
    gCopies.emplace_back();
}

// ---- CUDA's runtime ----------------------------------------------------------------------------

extern "C"
{
cudaError_t cudaGetDevice(int* device)
{
    *device = gDevice;
    return cudaSuccess;
}

//! An H200.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int)
{
    switch (attribute)
    {
    case cudaDevAttrComputeCapabilityMajor: *value = gCapability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = gCapability % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

cudaError_t cudaLibraryLoadData(
    cudaLibrary_t* library, void const* code, cudaJitOption*, void**, unsigned int, cudaLibraryOption*, void**, unsigned int)
{
    uint64_t number = 0;
    int const error = gRecorder.load(code, &number);
    *library = reinterpret_cast<cudaLibrary_t>(number);
    return static_cast<cudaError_t>(error);
}

cudaError_t cudaLibraryUnload(cudaLibrary_t)
{
    ++gUnloaded;
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, char const* name)
{
    uint64_t number = 0;
    int const error = gRecorder.find(reinterpret_cast<uint64_t>(library), name, &number);
    *kernel = reinterpret_cast<cudaKernel_t>(number);
    return static_cast<cudaError_t>(error);
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attribute, int value, int device)
{
    return static_cast<cudaError_t>(gRecorder.prepare(reinterpret_cast<uint64_t>(kernel), attribute, value, device));
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void const* kernel)
{
    return static_cast<cudaError_t>(gRecorder.place(reinterpret_cast<uint64_t>(kernel), gDevice));
}

cudaError_t cudaGetDriverEntryPointByVersion(
    char const* symbol, void** function, unsigned int version, unsigned long long, cudaDriverEntryPointQueryResult* said)
{
    constexpr unsigned int kSinceCuda = 12000;
    bool const known = __builtin_strcmp(symbol, "cuTensorMapEncodeTiled") == 0 && version == kSinceCuda;
    *function = known ? reinterpret_cast<void*>(&encodeTiled) : nullptr;
    *said = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version)
{
    *version = gDriverVersion;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* launch, void const* kernel, void** arguments)
{
    unsigned const shape[] = {
        launch->gridDim.x, launch->gridDim.y, launch->gridDim.z, launch->blockDim.x, launch->blockDim.y, launch->blockDim.z};
    bool const isProgrammatic = launch->numAttrs == 1 && launch->attrs->id == cudaLaunchAttributeProgrammaticStreamSerialization
        && launch->attrs->val.programmaticStreamSerializationAllowed == 1;
    int const early = isProgrammatic ? 1 : -static_cast<int>(launch->numAttrs); // negative: attributes that are not known
    return static_cast<cudaError_t>(gRecorder.launch(
        reinterpret_cast<uint64_t>(kernel), shape, launch->dynamicSmemBytes, launch->stream, arguments, early));
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream)
{
    return static_cast<cudaError_t>(gRecorder.clear(address, value, bytes, stream));
}
}
