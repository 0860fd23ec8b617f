// Threads of the test program's own.
#include "pool.h"

namespace host
{

Pool::Pool(size_t threads)
    : mThreads(threads)
{
    for (size_t self = 1; self < threads; ++self)
    {
        mWorkers.emplace_back([this, self] { work(self); });
    }
}

Pool::~Pool()
{
    {
        std::lock_guard<std::mutex> const lock(mMutex);
        mEnd = true;
    }
    mWake.notify_all();
    for (std::thread& worker : mWorkers)
    {
        worker.join();
    }
}

void Pool::parallel(void* pool, size_t count, void (*task)(void* data, size_t index), void* data)
{
    Pool& self = *static_cast<Pool*>(pool);
    {
        std::lock_guard<std::mutex> const lock(self.mMutex);
        self.mCount = count;
        self.mTask = task;
        self.mData = data;
        self.mBusy = self.mWorkers.size();
        self.mStarted = 0;
        ++self.mGeneration;
    }
    self.mWake.notify_all();
    self.share(0);
    std::unique_lock<std::mutex> lock(self.mMutex);
    self.mDone.wait(lock, [&self] { return self.mBusy == 0; });
}

void Pool::work(size_t self)
{
    size_t seen = 0;
    for (;;)
    {
        {
            std::unique_lock<std::mutex> lock(mMutex);
            mWake.wait(lock, [this, seen] { return mEnd || mGeneration != seen; });
            if (mEnd)
            {
                return;
            }
            seen = mGeneration;
        }
        share(self);
        std::lock_guard<std::mutex> const lock(mMutex);
        --mBusy;
        mDone.notify_one();
    }
}

void Pool::share(size_t self)
{
    ++mStarted;
    while (mStarted < mThreads)
    {
        std::this_thread::yield();
    }
    for (size_t i = 0; i < mCount; ++i)
    {
        if (i % mThreads == self || (twice && (i + 1) % mThreads == self))
        {
            mTask(mData, i);
        }
    }
}

void backwards(void*, size_t count, void (*task)(void* data, size_t index), void* data)
{
    while (count > 0)
    {
        task(data, --count);
    }
}

} // namespace host
