// Runs an engine with LCCLConv layers without Python: loads TensorRT, the plugin's library and the
// engine, fills the inputs with random numbers, and prints what comes out and how long a run takes.
//
//   lccl_run ENGINE [--plugin liblccl_trt_plugin.so] [--tensorrt libnvinfer.so.10] [--runs N]

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{

class Logger final : public nvinfer1::ILogger
{
public:
    void log(Severity severity, char const* message) noexcept override
    {
        if (severity <= Severity::kWARNING)
        {
            std::fprintf(stderr, "[TensorRT] %s\n", message);
        }
    }
};

struct Options
{
    std::string engine;
    std::string plugin;
    std::string tensorrt{"libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR)};
    int32_t runs{100};
};

[[noreturn]] void fail(std::string const& sentence)
{
    throw std::runtime_error(sentence);
}

void check(cudaError_t error)
{
    if (error != cudaSuccess)
    {
        fail(std::string("CUDA: ") + cudaGetErrorString(error));
    }
}

Options parse(int argc, char** argv)
{
    Options options;
    for (int i = 1; i < argc; ++i)
    {
        std::string const word = argv[i];
        bool const takesValue = word == "--plugin" || word == "--tensorrt" || word == "--runs";
        if (takesValue && i + 1 == argc)
        {
            fail(word + " takes a value");
        }
        if (word == "--plugin")
        {
            options.plugin = argv[++i];
        }
        else if (word == "--tensorrt")
        {
            options.tensorrt = argv[++i];
        }
        else if (word == "--runs")
        {
            options.runs = std::max(1, std::atoi(argv[++i]));
        }
        else if (options.engine.empty() && word.compare(0, 2, "--") != 0)
        {
            options.engine = word;
        }
        else
        {
            fail("usage: lccl_run ENGINE [--plugin LIBRARY] [--tensorrt LIBRARY] [--runs N]");
        }
    }
    if (options.engine.empty())
    {
        fail("usage: lccl_run ENGINE [--plugin LIBRARY] [--tensorrt LIBRARY] [--runs N]");
    }
    return options;
}

std::vector<char> readFile(std::string const& path)
{
    std::ifstream stream(path, std::ios::binary);
    if (!stream)
    {
        fail("cannot read " + path);
    }
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

//! TensorRT's library is opened by name, so that the program starts without it and can say what is
//! missing.
std::unique_ptr<nvinfer1::IRuntime> createRuntime(std::string const& library, nvinfer1::ILogger& logger)
{
    using Create = void* (*)(void*, int32_t);
    void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr)
    {
        fail(std::string("cannot load TensorRT: ") + dlerror() + "; name its library with --tensorrt");
    }
    auto const create = reinterpret_cast<Create>(dlsym(handle, "createInferRuntime_INTERNAL"));
    if (create == nullptr)
    {
        fail(library + " is no TensorRT runtime");
    }
    std::unique_ptr<nvinfer1::IRuntime> runtime(static_cast<nvinfer1::IRuntime*>(create(&logger, NV_TENSORRT_VERSION)));
    if (runtime == nullptr)
    {
        fail("TensorRT does not start: is it of the version that this program was compiled for?");
    }
    return runtime;
}

size_t bytesOf(nvinfer1::DataType type)
{
    switch (type)
    {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32: return 4;
    case nvinfer1::DataType::kHALF:
    case nvinfer1::DataType::kBF16: return 2;
    case nvinfer1::DataType::kINT64: return 8;
    default: return 1;
    }
}

int64_t elementsOf(nvinfer1::Dims const& dims)
{
    int64_t count = 1;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        count *= dims.d[i];
    }
    return count;
}

std::string toText(nvinfer1::Dims const& dims)
{
    std::string text;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i > 0 ? "x" : "") + std::to_string(dims.d[i]);
    }
    return text;
}

//! Device memory of one input or output.
struct Buffer
{
    std::string name;
    nvinfer1::Dims dims;
    nvinfer1::DataType type;
    bool input;
    void* memory;
    size_t bytes;
};

//! Every input at the best shape of the engine's first profile, filled with random numbers; outputs
//! as they follow.
std::vector<Buffer> bind(nvinfer1::ICudaEngine& engine, nvinfer1::IExecutionContext& context)
{
    std::vector<Buffer> buffers;
    for (bool const input : {true, false}) // shapes of outputs follow from the inputs'
    {
        for (int32_t i = 0; i < engine.getNbIOTensors(); ++i)
        {
            char const* const name = engine.getIOTensorName(i);
            if ((engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT) != input)
            {
                continue;
            }
            if (input && !context.setInputShape(name, engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kOPT)))
            {
                fail(std::string("the engine does not take its own best shape for ") + name);
            }
            Buffer buffer{name, context.getTensorShape(name), engine.getTensorDataType(name), input, nullptr, 0};
            buffer.bytes = static_cast<size_t>(elementsOf(buffer.dims)) * bytesOf(buffer.type);
            check(cudaMalloc(&buffer.memory, std::max<size_t>(buffer.bytes, 1)));
            context.setTensorAddress(name, buffer.memory);
            buffers.push_back(buffer);
        }
    }
    return buffers;
}

void fill(std::vector<Buffer> const& buffers)
{
    std::mt19937 generator(0);
    std::normal_distribution<float> normal;
    for (Buffer const& buffer : buffers)
    {
        if (buffer.input && buffer.type == nvinfer1::DataType::kFLOAT)
        {
            std::vector<float> values(static_cast<size_t>(elementsOf(buffer.dims)));
            std::generate(values.begin(), values.end(), [&] { return normal(generator); });
            check(cudaMemcpy(buffer.memory, values.data(), buffer.bytes, cudaMemcpyHostToDevice));
        }
        else if (buffer.input)
        {
            check(cudaMemset(buffer.memory, 0, buffer.bytes));
        }
    }
}

void print(Buffer const& buffer)
{
    std::printf("%s %s:", buffer.name.c_str(), toText(buffer.dims).c_str());
    if (buffer.type == nvinfer1::DataType::kFLOAT)
    {
        std::vector<float> values(static_cast<size_t>(elementsOf(buffer.dims)));
        check(cudaMemcpy(values.data(), buffer.memory, buffer.bytes, cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < std::min<size_t>(values.size(), 8); ++i)
        {
            std::printf(" %.5g", static_cast<double>(values[i]));
        }
    }
    std::printf("\n");
}

//! Median milliseconds of a run.
float measure(nvinfer1::IExecutionContext& context, int32_t runs)
{
    cudaStream_t stream{};
    cudaEvent_t begin{};
    cudaEvent_t end{};
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<float> times;
    for (int32_t i = 0; i < runs + 10; ++i)
    {
        check(cudaEventRecord(begin, stream));
        if (!context.enqueueV3(stream))
        {
            fail("the engine does not run");
        }
        check(cudaEventRecord(end, stream));
        check(cudaStreamSynchronize(stream));
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin, end));
        if (i >= 10) // those before warm up
        {
            times.push_back(milliseconds);
        }
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

void run(Options const& options)
{
    std::vector<char> const plan = readFile(options.engine);
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
    {
        fail("an engine needs an NVIDIA GPU and its driver, and there is none");
    }
    static Logger logger; // TensorRT keeps it until its library is unloaded.
    std::unique_ptr<nvinfer1::IRuntime> const runtime = createRuntime(options.tensorrt, logger);
    // The plugin's library before the engine: the engine's LCCLConv layers are looked up while it
    // is read.
    if (!options.plugin.empty() && runtime->getPluginRegistry().loadLibrary(options.plugin.c_str()) == nullptr)
    {
        fail("TensorRT cannot load the plugin " + options.plugin);
    }
    std::unique_ptr<nvinfer1::ICudaEngine> const engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (engine == nullptr)
    {
        fail(options.engine + " cannot be read: is it of this TensorRT and GPU, and is its plugin named by --plugin?");
    }
    std::unique_ptr<nvinfer1::IExecutionContext> const context(engine->createExecutionContext());
    if (context == nullptr)
    {
        fail("TensorRT makes no context: is there enough GPU memory?");
    }
    std::vector<Buffer> const buffers = bind(*engine, *context);
    fill(buffers);
    float const milliseconds = measure(*context, options.runs);
    for (Buffer const& buffer : buffers)
    {
        if (!buffer.input)
        {
            print(buffer);
        }
        check(cudaFree(buffer.memory));
    }
    std::printf("median of %d runs: %.3f ms\n", options.runs, static_cast<double>(milliseconds));
}

} // namespace

int main(int argc, char** argv)
{
    try
    {
        run(parse(argc, argv));
        return 0;
    }
    catch (std::exception const& error)
    {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
