// Runs loops on ONNX Runtime's threads.
#include "loop.h"

namespace lccl::ort
{

void Loop::run(void* loop, size_t count, void (*task)(void* data, size_t index), void* data) noexcept
{
    auto& self = *static_cast<Loop*>(loop);
    if (count == 1)
    {
        task(data, 0);
        return;
    }
    OrtStatus* const status = self.mApi.KernelContext_ParallelFor(self.mContext, task, count, 0, data);
    if (status != nullptr)
    {
        self.mApi.ReleaseStatus(self.mStatus);
        self.mStatus = status;
    }
}

void Loop::check()
{
    OrtStatus* const status = mStatus;
    mStatus = nullptr;
    ort::check(mApi, status);
}

} // namespace lccl::ort
