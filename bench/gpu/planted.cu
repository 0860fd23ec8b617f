// Two faults that tools of compute-sanitizer have to see: a barrier that is missing, and one that
// not all threads reach.

#include <cstring>

constexpr int kThreads = 64;

//! Reads what a thread of the other warp writes, without a barrier between. The name holds "lccl",
//! as a filter asks for.
__global__ void lcclMissingBarrier(int* y)
{
    __shared__ int volatile values[kThreads];
    int const thread = static_cast<int>(threadIdx.x);
    values[thread] = thread;
    y[thread] = values[kThreads - 1 - thread];
}

//! Half a warp leaves out the barrier that the others wait at.
__global__ void lcclDivergentBarrier(int* y)
{
    __shared__ int volatile values[kThreads];
    int const thread = static_cast<int>(threadIdx.x);
    values[thread] = thread;
    if (thread < 48)
    {
        __syncthreads();
    }
    y[thread] = values[thread];
}

int main(int count, char** arguments)
{
    int* y = nullptr;
    if (count != 2 || cudaMalloc(&y, kThreads * sizeof(int)) != cudaSuccess)
    {
        return 1;
    }
    auto* const kernel = std::strcmp(arguments[1], "racecheck") == 0 ? lcclMissingBarrier : lcclDivergentBarrier;
    kernel<<<1, kThreads>>>(y);
    return cudaDeviceSynchronize() == cudaSuccess ? 0 : 1;
}
