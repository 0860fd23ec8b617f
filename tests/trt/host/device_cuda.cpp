// A GPU's memory and streams.

#include "device.h"

#include <stdexcept>
#include <string>

namespace host
{
namespace
{

void check(cudaError_t error)
{
    if (error != cudaSuccess)
    {
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
    }
}

} // namespace

void requireDevice()
{
    int count = 0;
    cudaError_t const error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
    {
        throw std::runtime_error(
            std::string("there is no GPU: ") + (error == cudaSuccess ? "no CUDA device" : cudaGetErrorString(error)));
    }
}

Memory::Memory(size_t bytes)
    : mAllocation(nullptr)
    , mBegin(nullptr)
    , mBytes(bytes > 0 ? bytes : 1)
{
    check(cudaMalloc(&mAllocation, mBytes));
    mBegin = mAllocation;
}

Memory::Memory(Memory&& other) noexcept
    : mAllocation(other.mAllocation)
    , mBegin(other.mBegin)
    , mBytes(other.mBytes)
{
    other.mAllocation = nullptr;
}

Memory::~Memory()
{
    cudaFree(mAllocation);
}

void Memory::write(Bytes const& bytes)
{
    check(cudaMemcpy(mBegin, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
}

void Memory::fill(unsigned char value)
{
    check(cudaMemset(mBegin, value, mBytes));
    check(cudaDeviceSynchronize()); // the streams of the calls do not wait for this one
}

Bytes Memory::read(size_t bytes) const
{
    Bytes data(bytes);
    check(cudaMemcpy(data.data(), mBegin, bytes, cudaMemcpyDeviceToHost));
    return data;
}

Stream::Stream()
{
    check(cudaStreamCreateWithFlags(&mStream, cudaStreamNonBlocking));
}

Stream::~Stream()
{
    cudaStreamDestroy(mStream);
}

void Stream::wait()
{
    check(cudaStreamSynchronize(mStream));
}

bool Stream::runCaptured(std::function<void()> const& enqueue)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(mStream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    check(cudaStreamEndCapture(mStream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    check(cudaGraphLaunch(executable, mStream));
    wait();
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    return true;
}

} // namespace host
