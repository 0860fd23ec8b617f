// Asks the library that an object comes from for its version.
#include "tensorrt_version.h"

#include <dlfcn.h>

namespace lccl::plugin
{

int32_t majorVersionBehind(void* object)
{
    using Version = int32_t (*)();
    void const* const table = *static_cast<void const* const*>(object);
    Dl_info info{};
    if (dladdr(table, &info) == 0 || info.dli_fname == nullptr)
    {
        return 0;
    }
    // Only looked up in what is loaded already. The main program, which may hold a static TensorRT,
    // has no name to look it up by.
    void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    library = library != nullptr ? library : dlopen(nullptr, RTLD_LAZY);
    if (library == nullptr)
    {
        return 0;
    }
    void* const version = dlsym(library, "getInferLibVersion");
    int32_t const major = version == nullptr ? 0 : reinterpret_cast<Version>(version)() / 10000;
    dlclose(library);
    return major;
}

} // namespace lccl::plugin
