// A plugin library without plugins: it keeps the finder that TensorRT hands over, and tells which
// TensorRT that comes from.

#include "nvinfer.h"
#include "tensorrt_version.h"

namespace
{
void* kept = nullptr;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(void* finder)
{
    kept = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static nvinfer1::IPluginCreatorInterface* const none[] = {nullptr};
    count = 0;
    return none;
}

extern "C" __attribute__((visibility("default"))) int32_t lccl_probe_major_version()
{
    return kept == nullptr ? -1 : lccl::plugin::majorVersionBehind(kept);
}
