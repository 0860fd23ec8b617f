// One LCCLConv node of a session: prepared once, then called.
#pragma once

#include "attributes.h"
#include "call.h"
#include "layouts.h"
#include "pool.h"
#include "scratch.h"

namespace lccl::ort
{

//! After construction only the density of the last call changes, which never decides results: any
//! number of calls may run at once.
class Node
{
public:
    //! \param type T of the node
    //! \param hasLayouts whether the node says the layouts of its tensors; else they are NCHW
    //! \param hasGate whether its gate counts; else it is a convolution, and gate inputs are ignored
    //! \throw std::exception if the node cannot run here
    Node(OrtApi const& api, OrtKernelInfo const* info, ONNXTensorElementDataType type, bool hasLayouts, bool hasGate);
    ~Node();
    Node(Node const&) = delete;
    Node& operator=(Node const&) = delete;

    //! Computes Y of the context's inputs.
    OrtStatus* run(OrtKernelContext* context) const noexcept;

private:
    struct Tensors;

    //! The layout of a call's memory, in bytes from the front of its buffer.
    struct Layout;

    void keepConstants(OrtKernelInfo const* info);
    Tensors readTensors(OrtKernelContext* context) const;
    Layout layOut(lccl_cpu_params const& call, Tensors const& tensors) const;
    void compute(OrtKernelContext* context) const;
    void learn(int64_t active, int64_t pixels) const;

    OrtApi const& mApi;
    ONNXTensorElementDataType const mType;
    std::string mName;
    Attributes mAttributes;
    Layouts const mLayouts;
    bool const mHasGate;
    int32_t mIsa;
    std::shared_ptr<Pool> mPool;
    Shapes mConstantShapes;              //!< of inputs that are constant; others have no rank
    Buffer mPackedWeight;                //!< empty where W is computed
    Buffer mGateWeight;                  //!< float32, of a constant gate_W of another type
    mutable std::atomic<float> mDensity; //!< of the last call
};

//! The name that a message calls a node by; empty where it has none.
std::string nodeName(OrtApi const& api, OrtKernelInfo const* info);

} // namespace lccl::ort
