// A library with the logger of TensorRT FAKE_MAJOR: 10's classes are plain, 11's are versioned
// interfaces.

#include "nvinfer.h"

#include <string>

namespace
{

std::string last;

#if FAKE_MAJOR >= 11
class Base : public nvinfer1::IVersionedInterface
{
public:
    nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override
    {
        return {"fake", 1, 0};
    }
    virtual void* call(int32_t severity, char const* message) = 0;
};
#else
class Base
{
public:
    virtual void* call(int32_t severity, char const* message) = 0;
    virtual ~Base() = default;
};
#endif

class Logger final : public Base
{
public:
    void* call(int32_t severity, char const* message) override
    {
        last = std::to_string(severity) + " " + message;
        return nullptr;
    }
};

class Finder final : public Base
{
public:
    void* call(int32_t, char const*) override
    {
        static Logger logger;
        return &logger;
    }
};

} // namespace

extern "C" __attribute__((visibility("default"))) int32_t getInferLibVersion()
{
    return FAKE_MAJOR * 10000 + 1300;
}

extern "C" __attribute__((visibility("default"))) void* fake_finder()
{
    static Finder finder;
    return &finder;
}

extern "C" __attribute__((visibility("default"))) char const* fake_last_message()
{
    return last.c_str();
}
