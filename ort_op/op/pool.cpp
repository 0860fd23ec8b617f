// Counts ONNX Runtime's threads.
#include "pool.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <vector>

namespace lccl::ort
{
namespace
{

using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::microseconds(200); //!< in which a sleeping thread wakes
constexpr uint32_t kFirstCounts = 3;                       //!< calls that count

//! Counts the threads that come to a loop of as many steps as there may be threads. Each thread
//! waits for the others, so that none takes two steps; a second step of one thread shows that no
//! other will come.
class Count
{
public:
    explicit Count(size_t limit)
        : mLimit(limit)
    {
        mSeen.reserve(limit);
    }

    static void step(void* count, size_t) noexcept
    {
        static_cast<Count*>(count)->arrive();
    }

    int32_t result() const
    {
        return static_cast<int32_t>(std::max<size_t>(mSeen.size(), 1));
    }

private:
    void arrive()
    {
        {
            std::lock_guard<std::mutex> const lock(mMutex);
            std::thread::id const self = std::this_thread::get_id();
            if (mDone || std::find(mSeen.begin(), mSeen.end(), self) != mSeen.end())
            {
                mDone = true;
                return;
            }
            mSeen.push_back(self); // within what was reserved: there are no more steps
            mDone = mSeen.size() == mLimit;
        }
        auto const end = Clock::now() + kPatience;
        while (!mDone && Clock::now() < end)
        {
            std::this_thread::yield();
        }
    }

    size_t const mLimit;
    std::mutex mMutex;
    std::vector<std::thread::id> mSeen;
    std::atomic<bool> mDone{false};
};

} // namespace

int32_t Pool::threads(OrtApi const& api, OrtKernelContext const* context)
{
    static int32_t const limit = static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency()));
    int32_t const most = mMost.load(std::memory_order_relaxed);
    if (most >= limit)
    {
        return most;
    }
    uint32_t const call = mCalls.fetch_add(1, std::memory_order_relaxed) + 1;
    bool const isDue = call <= kFirstCounts || (call & (call - 1)) == 0;
    std::unique_lock<std::mutex> const lock = isDue ? std::unique_lock<std::mutex>(mMutex, std::try_to_lock)
                                                    : std::unique_lock<std::mutex>();
    if (!lock.owns_lock())
    {
        return most; // another call counts, or none does
    }
    Count count(static_cast<size_t>(limit));
    check(api, api.KernelContext_ParallelFor(context, &Count::step, static_cast<size_t>(limit), 0, &count));
    mMost.store(std::max(mMost.load(std::memory_order_relaxed), count.result()), std::memory_order_relaxed);
    return mMost.load(std::memory_order_relaxed);
}

std::shared_ptr<Pool> poolOf(OrtApi const& api, OrtKernelInfo const* info)
{
    // A session's kernels share its logger, and no other session's do.
    using Pools = std::map<std::pair<OrtApi const*, OrtLogger const*>, std::weak_ptr<Pool>>;
    static std::mutex& mutex = *new std::mutex; // never destroyed: sessions may outlive static objects
    static Pools& pools = *new Pools;
    OrtLogger const* logger = nullptr;
    if (!succeeded(api, api.KernelInfo_GetLogger(info, &logger)) || logger == nullptr)
    {
        return std::make_shared<Pool>();
    }
    std::lock_guard<std::mutex> const lock(mutex);
    for (auto entry = pools.begin(); entry != pools.end();)
    {
        entry = entry->second.expired() ? pools.erase(entry) : std::next(entry);
    }
    std::weak_ptr<Pool>& known = pools[{&api, logger}];
    std::shared_ptr<Pool> pool = known.lock();
    if (pool == nullptr)
    {
        pool = std::make_shared<Pool>();
        known = pool;
    }
    return pool;
}

} // namespace lccl::ort
