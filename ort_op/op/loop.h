// Loops on the threads of ONNX Runtime, as the kernels ask for them.
#pragma once

#include "onnxruntime.h"

namespace lccl::ort
{

//! Runs loops on the threads of one call.
class Loop
{
public:
    Loop(OrtApi const& api, OrtKernelContext const* context)
        : mApi(api)
        , mContext(context)
    {
    }

    ~Loop()
    {
        mApi.ReleaseStatus(mStatus);
    }

    Loop(Loop const&) = delete;
    Loop& operator=(Loop const&) = delete;

    //! As lccl_cpu_parallel; `loop` is a Loop.
    static void run(void* loop, size_t count, void (*task)(void* data, size_t index), void* data) noexcept;

    //! \throw Failure where ONNX Runtime refused a loop
    void check();

private:
    OrtApi const& mApi;
    OrtKernelContext const* mContext;
    OrtStatus* mStatus{nullptr};
};

} // namespace lccl::ort
