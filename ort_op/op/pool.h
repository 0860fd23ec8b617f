// How many threads of ONNX Runtime's own a session has.
#pragma once

#include "onnxruntime.h"

#include <atomic>
#include <memory>
#include <mutex>

namespace lccl::ort
{

//! The threads of a session. ONNX Runtime runs loops on them and does not say how many there are,
//! so they are counted.
class Pool
{
public:
    //! The most threads that were seen to work on one loop, the calling one among them. Counting
    //! takes up to 0.2 ms: the first three calls count and, while fewer threads came than the
    //! machine has cores, the 4th, 8th, 16th and so on, since threads may have been busy.
    int32_t threads(OrtApi const& api, OrtKernelContext const* context);

private:
    std::mutex mMutex; //!< of who counts
    std::atomic<uint32_t> mCalls{0};
    std::atomic<int32_t> mMost{1};
};

//! The pool of the session that the kernel belongs to, shared by the kernels of a session.
std::shared_ptr<Pool> poolOf(OrtApi const& api, OrtKernelInfo const* info);

} // namespace lccl::ort
