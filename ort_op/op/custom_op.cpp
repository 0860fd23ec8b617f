// ONNX Runtime's interfaces: the op as a table of functions, its shape inference, and the
// registration.

#include "call.h"
#include "infer.h"
#include "isa.h"
#include "node.h"

#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace lccl::ort
{
namespace
{

//! An op for one type T: ONNX Runtime treats ops of one name and domain as kernels of one op.
struct Op : OrtCustomOp
{
    char const* name;
    bool hasLayouts; //!< of its tensors, which the node says; else they are NCHW
    bool hasGate;
    ONNXTensorElementDataType type;
    OrtApi const* api;
};

Op const& self(OrtCustomOp const* op)
{
    return *static_cast<Op const*>(op);
}

// ---- the kernel --------------------------------------------------------------------------------

OrtStatusPtr ORT_API_CALL createKernel(OrtCustomOp const* op, OrtApi const* api, OrtKernelInfo const* info, void** kernel)
{
    std::string name;
    *kernel = nullptr;
    return guarded(*api, name,
        [&]
        {
            name = nodeName(*api, info);
            *kernel = new Node(*api, info, self(op).type, self(op).hasLayouts, self(op).hasGate);
        });
}

OrtStatusPtr ORT_API_CALL computeKernel(void* kernel, OrtKernelContext* context)
{
    return static_cast<Node const*>(kernel)->run(context);
}

void ORT_API_CALL destroyKernel(void* kernel)
{
    delete static_cast<Node*>(kernel);
}

OrtStatusPtr ORT_API_CALL inferOutputShape(OrtCustomOp const* op, OrtShapeInferContext* context)
{
    OrtApi const& api = *self(op).api;
    return guarded(api, {}, [&] { inferShape(api, context, self(op).hasLayouts); });
}

// ---- the table ---------------------------------------------------------------------------------

ONNXTensorElementDataType ORT_API_CALL inputType(OrtCustomOp const* op, size_t index)
{
    return isFloat32Only(static_cast<int32_t>(index)) ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : self(op).type;
}

Op makeOp(OrtApi const& api, char const* name, bool hasLayouts, ONNXTensorElementDataType type)
{
    Op op{};
    op.name = name;
    op.hasLayouts = hasLayouts;
    op.hasGate = std::strcmp(name, "Conv") != 0;
    op.type = type;
    op.api = &api;
    op.version = kApiVersion;
    op.GetName = [](OrtCustomOp const* o) { return self(o).name; };
    op.GetExecutionProviderType = [](OrtCustomOp const*) -> char const* { return nullptr; };
    op.GetInputTypeCount = [](OrtCustomOp const*) -> size_t { return kInputs; };
    op.GetInputType = inputType;
    op.GetOutputTypeCount = [](OrtCustomOp const*) -> size_t { return 1; };
    op.GetOutputType = [](OrtCustomOp const* o, size_t) { return self(o).type; };
    op.GetInputCharacteristic = [](OrtCustomOp const*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetOutputCharacteristic = [](OrtCustomOp const*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetInputMemoryType = [](OrtCustomOp const*, size_t) { return OrtMemTypeDefault; };
    op.GetVariadicInputMinArity = [](OrtCustomOp const*) { return 0; };
    op.GetVariadicInputHomogeneity = [](OrtCustomOp const*) { return 0; };
    op.GetVariadicOutputMinArity = [](OrtCustomOp const*) { return 0; };
    op.GetVariadicOutputHomogeneity = [](OrtCustomOp const*) { return 0; };
    op.CreateKernelV2 = createKernel;
    op.KernelComputeV2 = computeKernel;
    op.KernelDestroy = destroyKernel;
    op.InferOutputShapeFn = inferOutputShape;
    op.GetStartVersion = [](OrtCustomOp const*) { return 1; };
    op.GetEndVersion = [](OrtCustomOp const*) { return 1; };
    return op;
}

constexpr ONNXTensorElementDataType kTypes[]{
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};

//! The registration with one copy of ONNX Runtime in this process, until the library is unloaded:
//! the contract's op, and in the private domain that op with layouts, and a convolution without a
//! gate, whose gate inputs are neutral.
class Registration
{
public:
    explicit Registration(OrtApi const& api)
        : mApi(api)
    {
        addOps("lccl", {"LCCLConv"}, false);
        addOps("lccl.ort", {"LCCLConv", "Conv"}, true);
    }

    Registration(Registration const&) = delete;
    Registration& operator=(Registration const&) = delete;

    void add(OrtSessionOptions* options) const
    {
        for (OrtCustomOpDomain* const domain : mDomains)
        {
            check(mApi, mApi.AddCustomOpDomain(options, domain));
        }
    }

private:
    void addOps(char const* domain, std::initializer_list<char const*> names, bool hasLayouts)
    {
        check(mApi, mApi.CreateCustomOpDomain(domain, &mDomains.emplace_back(nullptr)));
        for (char const* const name : names)
        {
            for (ONNXTensorElementDataType const type : kTypes)
            {
                mOps.push_back(makeOp(mApi, name, hasLayouts, type));
                check(mApi, mApi.CustomOpDomain_Add(mDomains.back(), &mOps.back()));
            }
        }
    }

    OrtApi const& mApi;
    std::deque<Op> mOps;                      //!< a deque, since ONNX Runtime keeps their addresses
    std::vector<OrtCustomOpDomain*> mDomains; //!< never released: at the end of a process ONNX Runtime may be gone first
};

Registration& registrationFor(OrtApi const& api)
{
    static std::mutex& mutex = *new std::mutex; // never destroyed: sessions may outlive static objects
    static auto& registrations = *new std::map<OrtApi const*, Registration>;
    std::lock_guard<std::mutex> const lock(mutex);
    return registrations.try_emplace(&api, api).first->second;
}

} // namespace
} // namespace lccl::ort

//! The function that ONNX Runtime looks for in a library of custom ops. An ONNX Runtime that is too
//! old for the interface gets no op and no error: models then run through their function.
extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(
    OrtSessionOptions* options, OrtApiBase const* base)
{
    OrtApi const* const api = base->GetApi(lccl::ort::kApiVersion);
    if (api == nullptr)
    {
        return nullptr;
    }
    return lccl::ort::guarded(*api, {}, [&] { lccl::ort::registrationFor(*api).add(options); });
}

//! The instruction set that the kernels use in this process, such as "avx2"; null if LCCL_CPU_ISA
//! names one that this machine does not run.
extern "C" __attribute__((visibility("default"))) char const* lccl_ort_describe()
{
    try
    {
        int32_t const chosen = lccl::ort::chooseIsa();
        for (int32_t i = 0; i < lccl_cpu_isa_count(); ++i)
        {
            if (lccl_cpu_isa_at(i)->id == chosen)
            {
                return lccl_cpu_isa_at(i)->name;
            }
        }
    }
    catch (std::exception const&)
    {
        return nullptr; // a session says why
    }
    return nullptr;
}
