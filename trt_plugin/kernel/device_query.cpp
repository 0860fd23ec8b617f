// Asks CUDA's runtime for the properties of a device that planning needs.

#include "lccl_cuda.h"

extern "C" cudaError_t lccl_device_query(int32_t ordinal, lccl_device* device)
{
    if (device == nullptr)
    {
        return cudaErrorInvalidValue;
    }
    if (ordinal == -1)
    {
        cudaError_t const error = cudaGetDevice(&ordinal);
        if (error != cudaSuccess)
        {
            return error;
        }
    }
    struct
    {
        cudaDeviceAttr attribute;
        int value;
    } asked[] = {{cudaDevAttrComputeCapabilityMajor, 0}, {cudaDevAttrComputeCapabilityMinor, 0},
        {cudaDevAttrMultiProcessorCount, 0}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 0},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0}};
    for (auto& question : asked)
    {
        cudaError_t const error = cudaDeviceGetAttribute(&question.value, question.attribute, ordinal);
        if (error != cudaSuccess)
        {
            return error;
        }
    }
    *device = {asked[0].value * 10 + asked[1].value, asked[2].value, asked[3].value, asked[4].value};
    return cudaSuccess;
}
