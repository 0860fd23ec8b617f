// Loads cubins by CUDA's runtime, lays their parameters out as each cubin asks for, and starts them.

#include "launch_triton.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>

namespace lccl
{
namespace
{

//! A cubin that was loaded. Libraries of CUDA's runtime belong to no device, kernels are set up on each.
struct Loaded
{
    cudaLibrary_t library;
    cudaKernel_t kernel;
    std::map<int32_t, cudaError_t> devices;
};

//! All cubins that this process has loaded; they stay, as the code of other kernels does.
class Loader
{
public:
    //! The kernel, ready to be started on the current device.
    cudaError_t load(Cubin const& cubin, cudaKernel_t& kernel)
    {
        int device = 0;
        cudaError_t error = cudaGetDevice(&device);
        if (error != cudaSuccess)
        {
            return error;
        }
        std::lock_guard<std::mutex> const lock(mMutex);
        auto found = mLoaded.find(&cubin);
        if (found == mLoaded.end())
        {
            Loaded loaded{};
            error = cudaLibraryLoadData(&loaded.library, cubin.code, nullptr, nullptr, 0, nullptr, nullptr, 0);
            if (error != cudaSuccess)
            {
                return error;
            }
            error = cudaLibraryGetKernel(&loaded.kernel, loaded.library, cubin.function);
            if (error != cudaSuccess)
            {
                cudaLibraryUnload(loaded.library);
                return error;
            }
            found = mLoaded.emplace(&cubin, loaded).first;
        }
        Loaded& loaded = found->second;
        kernel = loaded.kernel;
        auto const ready = loaded.devices.find(device);
        if (ready != loaded.devices.end())
        {
            return ready->second;
        }
        error = cudaKernelSetAttributeForDevice(
            loaded.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cubin.sharedBytes, device);
        if (error == cudaSuccess) // Loads it on the device, as for the CUDA kernels: what cannot be loaded says so here.
        {
            cudaFuncAttributes attributes{};
            error = cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(loaded.kernel));
        }
        if (error == cudaSuccess)
        {
            loaded.devices.emplace(device, error);
        }
        return error;
    }

    //! The current device, of which CUDA's runtime is asked once.
    cudaError_t currentDevice(lccl_device& device)
    {
        int ordinal = 0;
        cudaError_t error = cudaGetDevice(&ordinal);
        if (error != cudaSuccess)
        {
            return error;
        }
        std::lock_guard<std::mutex> const lock(mMutex);
        auto found = mDevices.find(ordinal);
        if (found == mDevices.end())
        {
            lccl_device asked{};
            error = lccl_device_query(ordinal, &asked);
            if (error != cudaSuccess)
            {
                return error;
            }
            found = mDevices.emplace(ordinal, asked).first;
        }
        device = found->second;
        return cudaSuccess;
    }

private:
    std::mutex mMutex;
    std::map<Cubin const*, Loaded> mLoaded;
    std::map<int, lccl_device> mDevices;
};

Loader& loader()
{
    static Loader* const kLoader = new Loader; // CUDA's runtime may end before the process's statics do.
    return *kLoader;
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

//! The driver's function that makes descriptors. No library is linked for it.
cudaError_t findEncode(EncodeTiled& encode)
{
    constexpr unsigned int kSinceCuda = 12000;
    void* found = nullptr;
    cudaDriverEntryPointQueryResult said{};
    cudaError_t const error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &found, kSinceCuda, cudaEnableDefault, &said);
    if (error != cudaSuccess)
    {
        return error;
    }
    encode = reinterpret_cast<EncodeTiled>(found);
    return said == cudaDriverEntryPointSuccess && encode != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

//! Drivers up to CUDA 13.1 take a small tensor's descriptor for one whose copies may be merged, and must be told
//! otherwise, as CUTLASS and Triton do.
cudaError_t mendSmallMap(CUtensorMap& descriptor, TensorMap const& map, Box const& box)
{
    constexpr int64_t kSmallBytes = 128 * 1024;
    constexpr int kMendedSince = 13020;
    int version = 0;
    cudaError_t const error = cudaDriverGetVersion(&version);
    int64_t last = 0;
    for (int32_t axis = 0; axis < map.rank; ++axis)
    {
        last += (map.sizes[axis] - 1) * map.strides[axis] * box.elementBytes;
    }
    if (error == cudaSuccess && version < kMendedSince && last + 1 < kSmallBytes)
    {
        descriptor.opaque[1] &= ~(cuuint64_t{1} << 21);
    }
    return error;
}

cudaError_t encodeMap(EncodeTiled encode, TensorMap const& map, Box const& box, CUtensorMap& descriptor)
{
    if (map.rank != box.rank || map.rank > kMaxRank)
    {
        return cudaErrorUnknown;
    }
    cuuint64_t sizes[kMaxRank]{};
    cuuint64_t strides[kMaxRank]{};
    cuuint32_t sides[kMaxRank]{};
    cuuint32_t steps[kMaxRank]{};
    for (int32_t axis = 0; axis < map.rank; ++axis) // The driver counts axes from the contiguous one.
    {
        int32_t const from = map.rank - 1 - axis;
        sizes[axis] = static_cast<cuuint64_t>(map.sizes[from]);
        sides[axis] = box.box[from];
        steps[axis] = 1;
        if (axis > 0)
        {
            strides[axis - 1] = static_cast<cuuint64_t>(map.strides[from] * box.elementBytes);
        }
    }
    CUresult const result = encode(&descriptor, static_cast<CUtensorMapDataType>(box.elementType),
        static_cast<cuuint32_t>(map.rank), const_cast<void*>(map.address), sizes, strides, sides, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(box.swizzle), CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? mendSmallMap(descriptor, map, box) : cudaErrorInvalidValue;
}

Box const* boxOf(Cubin const& cubin, Argument argument)
{
    for (int32_t i = 0; i < cubin.boxCount; ++i)
    {
        if (cubin.boxes[i].argument == argument)
        {
            return &cubin.boxes[i];
        }
    }
    return nullptr;
}

//! The parameters of a launch, each at its place.
class Parameters
{
public:
    cudaError_t fill(Step const& step)
    {
        Cubin const& cubin = *step.cubin;
        EncodeTiled encode = nullptr;
        for (int32_t i = 0; i < cubin.parameterCount; ++i)
        {
            Parameter const& parameter = cubin.parameters[i];
            if (i >= kMostParameters || parameter.offset + parameter.size > kMostBytes)
            {
                return cudaErrorUnknown;
            }
            mPointers[static_cast<size_t>(i)] = mBytes.data() + parameter.offset;
            if (parameter.kind != ParameterKind::kDescriptor)
            {
                if (!step.values.write(parameter, mBytes.data()))
                {
                    return cudaErrorUnknown;
                }
                continue;
            }
            TensorMap const* const map = step.values.map(parameter.argument);
            Box const* const box = boxOf(cubin, parameter.argument);
            CUtensorMap descriptor{};
            if (map == nullptr || box == nullptr || parameter.size != sizeof(descriptor))
            {
                return cudaErrorUnknown;
            }
            cudaError_t error = encode == nullptr ? findEncode(encode) : cudaSuccess;
            error = error == cudaSuccess ? encodeMap(encode, *map, *box, descriptor) : error;
            if (error != cudaSuccess)
            {
                return error;
            }
            std::memcpy(mBytes.data() + parameter.offset, &descriptor, sizeof(descriptor));
        }
        return cudaSuccess;
    }

    void** pointers()
    {
        return mPointers.data();
    }

private:
    static constexpr int32_t kMostParameters = 128;
    static constexpr int32_t kMostBytes = 4096; // of a kernel's parameters on every architecture

    std::array<unsigned char, kMostBytes> mBytes{};
    std::array<void*, kMostParameters> mPointers{};
};

//! \param early the kernel may start before the one ahead of it has ended
cudaError_t start(Step const& step, bool early, cudaStream_t stream)
{
    if (!step.runs)
    {
        return cudaSuccess;
    }
    constexpr unsigned int kLanes = 32;
    cudaKernel_t kernel{};
    cudaError_t error = loader().load(*step.cubin, kernel);
    Parameters parameters;
    error = error == cudaSuccess ? parameters.fill(step) : error;
    if (error != cudaSuccess)
    {
        return error;
    }
    cudaLaunchAttribute programmatic{};
    programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    programmatic.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t launch{};
    launch.gridDim = dim3{step.blocks[0], step.blocks[1], 1};
    launch.blockDim = dim3{kLanes * static_cast<unsigned int>(step.cubin->warps), 1, 1};
    launch.dynamicSmemBytes = static_cast<size_t>(step.cubin->sharedBytes);
    launch.stream = stream;
    launch.attrs = early ? &programmatic : nullptr;
    launch.numAttrs = early ? 1 : 0;
    return cudaLaunchKernelExC(&launch, reinterpret_cast<void const*>(kernel), parameters.pointers());
}

//! Plans for the current device. \return cudaErrorNoKernelImageForDevice where a cubin is missing
cudaError_t planHere(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config, void* workspace,
    TritonPlan& plan)
{
    lccl_device current{};
    cudaError_t const error = loader().currentDevice(current);
    if (error != cudaSuccess)
    {
        return error;
    }
    plan = makeTritonPlan(params, device, current, config, workspace);
    for (Step const* const step : {&plan.gate, &plan.main, &plan.close})
    {
        if (step->runs && step->cubin == nullptr)
        {
            return cudaErrorNoKernelImageForDevice;
        }
    }
    return cudaSuccess;
}

} // namespace

int32_t driverCuda()
{
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

cudaError_t launchTriton(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config,
    void* workspace, cudaStream_t stream)
{
    TritonPlan plan{};
    cudaError_t error = planHere(params, device, config, workspace, plan);
    if (error == cudaSuccess && plan.gate.runs)
    {
        error = cudaMemsetAsync(plan.count, 0, sizeof(*plan.count), stream);
    }
    // The gate follows what is no kernel. The others wait by themselves for the kernel ahead of them, which is this
    // call's: where the gate runs apart, the main kernel follows an unknown one.
    bool early = false;
    for (Step const* const step : {&plan.gate, &plan.main, &plan.close})
    {
        bool const waits = early && step->cubin != nullptr && step->cubin->pdl != 0;
        error = error == cudaSuccess ? start(*step, waits, stream) : error;
        early = early || step->runs;
    }
    return error;
}

cudaError_t loadTriton(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config)
{
    TritonPlan plan{};
    cudaError_t error = planHere(params, device, config, nullptr, plan);
    for (Step const* const step : {&plan.gate, &plan.main, &plan.close})
    {
        cudaKernel_t kernel{};
        error = error == cudaSuccess && step->runs ? loader().load(*step->cubin, kernel) : error;
    }
    return error;
}

} // namespace lccl
