// The two functions that TensorRT looks for in a plugin library. Nothing registers itself: the
// registry's own table of functions is another one in TensorRT 11 than in 10, so the registry has
// to call us, not we it.

#include "creator.h"
#include "logging.h"

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(void* finder)
{
    lccl::plugin::keepLoggerFinder(finder);
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static lccl::plugin::LCCLConvCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}
