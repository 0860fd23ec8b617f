// Parts of the op under sanitizers, with a table of functions in ONNX Runtime's place: the count of
// its threads, the memory for calls, and the conversion of 16-bit floats. Ends with 1 and a
// sentence where something is wrong.

#include "convert.h"
#include "pool.h"
#include "scratch.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace lccl::ort;

namespace
{

int const kThreads = static_cast<int>(std::thread::hardware_concurrency());

//! How many more loops have all threads but the caller's come too late.
std::atomic<int> lateLoops{0};

OrtStatusPtr ORT_API_CALL parallelFor(
    OrtKernelContext const*, void (*step)(void*, size_t), size_t total, size_t, void* data) noexcept
{
    bool const isLate = lateLoops.fetch_sub(1) > 0;
    std::atomic<size_t> next{0};
    std::atomic<bool> callerIsDone{false};
    auto const work = [&]
    {
        for (size_t i = next++; i < total; i = next++)
        {
            step(data, i);
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < kThreads; ++i)
    {
        others.emplace_back(
            [&]
            {
                while (isLate && !callerIsDone)
                {
                    std::this_thread::yield();
                }
                work();
            });
    }
    work();
    callerIsDone = true;
    for (std::thread& other : others)
    {
        other.join();
    }
    return nullptr;
}

void require(bool holds, char const* words)
{
    if (!holds)
    {
        std::printf("%s\n", words);
        std::exit(1);
    }
}

OrtApi table()
{
    OrtApi api{};
    api.KernelContext_ParallelFor = parallelFor;
    api.ReleaseStatus = [](OrtStatus*) noexcept {};
    return api;
}

//! Threads that were busy in the first calls are found later.
void poolLate()
{
    OrtApi const api = table();
    Pool pool;
    lateLoops = 3;
    for (int call = 1; call <= 3; ++call)
    {
        require(pool.threads(api, nullptr) == 1, "a thread that came late was counted");
    }
    int seen = 0;
    for (int call = 4; call <= (1 << 22) && seen < kThreads; ++call) // a busy machine may need many
    {
        seen = pool.threads(api, nullptr);
    }
    require(seen == kThreads, "threads that were busy at first are never counted");
}

//! Any number of calls may ask at once.
void poolConcurrent()
{
    OrtApi const api = table();
    Pool pool;
    std::vector<std::thread> callers;
    for (int i = 0; i < 8; ++i)
    {
        callers.emplace_back(
            [&]
            {
                for (int call = 0; call < 64; ++call)
                {
                    int32_t const seen = pool.threads(api, nullptr);
                    require(seen >= 1 && seen <= kThreads, "a number of threads that cannot be");
                }
            });
    }
    for (std::thread& caller : callers)
    {
        caller.join();
    }
}

//! Nobody else has a buffer while a call has it.
void scratchShared()
{
    scratch().addUser();
    std::vector<std::thread> callers;
    for (unsigned seed = 0; seed < 8; ++seed)
    {
        callers.emplace_back(
            [seed]
            {
                std::minstd_rand random(seed);
                for (int call = 0; call < 300; ++call)
                {
                    size_t const bytes = 1 + random() % 5000;
                    Borrowed const memory(bytes);
                    std::memset(memory.data(), static_cast<int>(seed), bytes);
                    std::this_thread::yield();
                    for (size_t i = 0; i < bytes; ++i)
                    {
                        require(memory.data()[i] == static_cast<char>(seed), "two calls have one buffer");
                    }
                }
            });
    }
    for (std::thread& caller : callers)
    {
        caller.join();
    }
    scratch().removeUser();
}

//! Every float16, there and back, in a process that takes subnormal float32 for 0, as a session may
//! ask for.
void convertAll()
{
    std::vector<float> expected(65536);
    std::vector<uint16_t> halves(65536), back(65536);
    for (uint32_t bits = 0; bits < 65536; ++bits)
    {
        int const exponent = static_cast<int>(bits >> 10 & 31);
        double const fraction = bits & 1023;
        double const size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
        halves[bits] = static_cast<uint16_t>(bits);
        expected[bits] = static_cast<float>((bits & 0x8000) != 0 ? -size : size);
    }
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
    std::vector<float> got(65536);
    fromFloat16(halves.data(), got.data(), got.size());
    toFloat16(got.data(), back.data(), got.size());
    for (uint32_t bits = 0; bits < 65536; ++bits)
    {
        if ((bits >> 10 & 31) == 31)
        {
            continue; // infinity and NaN: the tests in ONNX Runtime have them
        }
        require(std::memcmp(&got[bits], &expected[bits], 4) == 0, "a float16 becomes another number");
        require(back[bits] == bits, "a float16 does not come back");
    }
}

} // namespace

int main(int count, char** words)
{
    std::string const what = count == 2 ? words[1] : "";
    if (what == "pool-late")
    {
        poolLate();
    }
    else if (what == "pool-concurrent")
    {
        poolConcurrent();
    }
    else if (what == "scratch")
    {
        scratchShared();
    }
    else if (what == "convert")
    {
        convertAll();
    }
    else
    {
        std::printf("there is no part %s\n", what.c_str());
        return 1;
    }
    return 0;
}
