// Threads for the kernels' `parallel`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace host
{

//! Task i runs on thread i % threads: neighbours never share one, so that ThreadSanitizer sees them
//! meet. Nothing orders the tasks of two threads: all of them have started before the first task
//! runs.
class Pool
{
public:
    explicit Pool(size_t threads);
    ~Pool();
    Pool(Pool const&) = delete;
    Pool& operator=(Pool const&) = delete;

    //! An lccl_cpu_parallel; `pool` is a Pool.
    static void parallel(void* pool, size_t count, void (*task)(void* data, size_t index), void* data);

    bool twice{}; //!< Task i also runs on thread (i + 1) % threads.

private:
    void work(size_t self);
    void share(size_t self);

    size_t const mThreads;
    std::mutex mMutex;
    std::condition_variable mWake;
    std::condition_variable mDone;
    std::atomic<size_t> mStarted{};
    size_t mGeneration{};
    size_t mBusy{};
    bool mEnd{};
    size_t mCount{};
    void (*mTask)(void*, size_t){};
    void* mData{};
    std::vector<std::thread> mWorkers; // all but the caller
};

//! An lccl_cpu_parallel without threads: the last task first.
void backwards(void* pool, size_t count, void (*task)(void* data, size_t index), void* data);

} // namespace host
