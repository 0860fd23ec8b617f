// IPluginRegistry is another class in TensorRT 11 than in 10: its functions are called by their
// place in the table of the version at hand. The places follow from NVIDIA's headers, where a
// virtual destructor takes two.

#include "registry.h"

#include <dlfcn.h>
#include <stdexcept>
#include <string>

namespace host
{
namespace
{

void* open(char const* path)
{
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        throw std::runtime_error(dlerror());
    }
    return library;
}

void* symbolOf(void* library, char const* name)
{
    void* const symbol = dlsym(library, name);
    if (symbol == nullptr)
    {
        throw std::runtime_error(std::string("the library has no ") + name);
    }
    return symbol;
}

template <typename Function>
Function slotOf(void* object, int32_t slot)
{
    return reinterpret_cast<Function>((*static_cast<void* const* const*>(object))[slot]);
}

} // namespace

nvinfer1::IPluginCreatorV3One& creatorOf(char const* plugin)
{
    using Creators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count = 0;
    auto* const* const creators = reinterpret_cast<Creators>(symbolOf(open(plugin), "getCreators"))(count);
    return static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[0]);
}

std::string messageThrough(char const* fakeTensorrt, char const* plugin)
{
    using Finder = void* (*)();
    using SetFinder = void (*)(void*);
    using Message = char const* (*)();
    void* const fake = open(fakeTensorrt);
    void* const library = open(plugin);
    reinterpret_cast<SetFinder>(symbolOf(library, "setLoggerFinder"))(
        reinterpret_cast<Finder>(symbolOf(fake, "fake_finder"))());
    nvinfer1::PluginFieldCollection const none{};
    creatorOf(plugin).createPlugin("layer", &none, nvinfer1::TensorRTPhase::kBUILD);
    return reinterpret_cast<Message>(symbolOf(fake, "fake_last_message"))();
}

nvinfer1::IPluginCreatorV3One& creatorFromRegistry(char const* tensorrt, char const* plugin)
{
    using Version = int32_t (*)();
    using Registry = void* (*)();
    using LoadLibrary = void* (*)(void*, char const*);
    using GetCreator = nvinfer1::IPluginCreatorInterface* (*)(void*, char const*, char const*, char const*);
    void* const library = open(tensorrt);
    bool const is11 = reinterpret_cast<Version>(symbolOf(library, "getInferLibVersion"))() >= 110000;
    void* const registry = reinterpret_cast<Registry>(symbolOf(library, "getPluginRegistry"))();
    if (slotOf<LoadLibrary>(registry, is11 ? 6 : 10)(registry, plugin) == nullptr)
    {
        throw std::runtime_error("the registry did not load the plugin");
    }
    auto* const creator = slotOf<GetCreator>(registry, is11 ? 10 : 14)(registry, "LCCLConv", "1", "");
    if (creator == nullptr)
    {
        throw std::runtime_error("the registry has no creator of LCCLConv");
    }
    return static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
}

} // namespace host
