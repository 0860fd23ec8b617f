// The plugin: one section for each of TensorRT's interfaces, in the order in which TensorRT goes
// through them.

#include "plugin.h"

#include "build_id.h"
#include "logging.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

using namespace nvinfer1;

namespace lccl::plugin
{
namespace
{

constexpr int32_t kSUCCESS = 0;
constexpr int32_t kFAILURE = 1;
constexpr size_t kREASON_BYTES = 512;
//! What getWorkspaceSize answers where it fails: more than any GPU has, so that TensorRT takes no
//! tactic, and so little that sizes can still be rounded up and added up.
constexpr size_t kIMPOSSIBLE_WORKSPACE = size_t{1} << 50;

void requireCounts(int32_t nbInputs, int32_t nbOutputs)
{
    if (nbInputs != kInputs || nbOutputs != 1)
    {
        throw std::invalid_argument(
            "the op has nine inputs and one output, not " + std::to_string(nbInputs) + " and " + std::to_string(nbOutputs));
    }
}

//! \throw std::invalid_argument if a configuration (0: any) cannot run a call
void requireRuns(lccl_conv_params const& call, lccl_device const& device, int32_t configuration)
{
    char reason[kREASON_BYTES] = "";
    if (lccl_conv_supported(&call, &device, configuration, reason, sizeof(reason)) == 0)
    {
        throw std::invalid_argument(reason);
    }
}

//! \throw std::invalid_argument if a pointer or the workspace keeps a call from being started
void requireStarts(
    lccl_conv_params const& call, lccl_device const& device, int32_t configuration, void const* workspace, size_t workspaceSize)
{
    char reason[kREASON_BYTES] = "";
    if (lccl_conv_check(&call, &device, configuration, workspace, workspaceSize, reason, sizeof(reason)) == 0)
    {
        throw std::invalid_argument(reason);
    }
}

//! \throw std::runtime_error with the words and the error
void requireSuccess(cudaError_t error, char const* words)
{
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    {
        throw std::runtime_error("this library holds no code for the GPU at hand: build it for that with lccl-build-plugin");
    }
    if (error != cudaSuccess)
    {
        throw std::runtime_error(std::string(words) + " (CUDA error " + std::to_string(static_cast<int32_t>(error)) + ")");
    }
}

//! The GPU at hand. It is asked each time, since the caller may have set another one.
lccl_device currentDevice()
{
    lccl_device device{};
    requireSuccess(lccl_device_query(-1, &device), "no CUDA device can be used");
    return device;
}

bool isPositive(Dims const& dims)
{
    return std::all_of(dims.d, dims.d + std::max(dims.nbDims, 0), [](int64_t size) { return size > 0; });
}

//! A call that a configuration takes on any GPU that it is for.
lccl_conv_params smallestCall(lccl_conv_config const& config)
{
    lccl_conv_params call{};
    call.abi = LCCL_CUDA_ABI;
    call.dtype = config.math == LCCL_SIMT ? LCCL_FLOAT32 : LCCL_FLOAT16;
    call.layout = LCCL_NHWC;
    call.n = call.h = call.w = call.k = call.r = call.s = 1;
    call.c = 8;
    call.grid = config.family == LCCL_PIXEL ? 1 : 8;
    std::fill_n(call.strides, 2, 1);
    std::fill_n(call.dilations, 2, 1);
    call.density = -1;
    return call;
}

//! \throw std::invalid_argument if the tactic does not exist, or does not run on the GPU at hand
void requireTactic(int32_t tactic)
{
    for (int32_t i = 0; i < lccl_conv_config_count(); ++i)
    {
        lccl_conv_config const& config = *lccl_conv_config_at(i);
        if (config.id == tactic)
        {
            requireRuns(smallestCall(config), currentDevice(), tactic);
            return;
        }
    }
    throw std::invalid_argument(
        "tactic " + std::to_string(tactic) + " is of another version of the plugin: build the engine again");
}

//! The inputs at one end of their profiles; an input without a profile, such as weights, keeps its
//! shape.
std::vector<PluginTensorDesc> inputsAt(DynamicPluginTensorDesc const* inputs, Dims DynamicPluginTensorDesc::* end)
{
    std::vector<PluginTensorDesc> at;
    for (int32_t i = 0; i < kInputs; ++i)
    {
        at.push_back(inputs[i].desc);
        Dims const& dims = inputs[i].*end;
        if (dims.nbDims == at.back().dims.nbDims)
        {
            at.back().dims = dims;
        }
    }
    return at;
}

} // namespace

LCCLConvPlugin::LCCLConvPlugin(Attributes attributes, std::string layer, bool building)
    : mAttributes(std::move(attributes))
    , mLayer(std::move(layer))
    , mForBuild(building)
    , mSimulates(building)
    , mWorkspace(std::make_shared<std::atomic<size_t>>(mAttributes.workspaceBytes()))
    , mDescription(describe(mAttributes))
    , mTimingCacheID(mDescription + " kernels=" + kKERNEL_HASH)
{
    if (!building && mWorkspace->load() == 0)
    {
        log(Severity::kWARNING, mLayer,
            "the engine does not say how much workspace it has, since its plugin was neither configured nor asked: it is taken to be enough");
    }
}

LCCLConvPlugin::LCCLConvPlugin(LCCLConvPlugin const& other)
    : mAttributes(other.mAttributes)
    , mLayer(other.mLayer)
    , mForBuild(other.mForBuild)
    , mSimulates(other.mSimulates)
    , mTactic(other.mTactic)
    , mTactics(other.mTactics)
    , mWorkspace(other.mWorkspace)
    , mPlan(other.mPlan)
    , mDescription(other.mDescription)
    , mTimingCacheID(other.mTimingCacheID)
{
}

// ---- IPluginV3 ---------------------------------------------------------------------------------

IPluginCapability* LCCLConvPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuildV2*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    default: return nullptr;
    }
}

IPluginV3* LCCLConvPlugin::clone() noexcept
{
    return guarded<IPluginV3*>(mLayer, nullptr, [this] { return copy().release(); });
}

std::unique_ptr<LCCLConvPlugin> LCCLConvPlugin::copy() const
{
    auto made = std::make_unique<LCCLConvPlugin>(*this);
    if (mPlan.call.abi != 0)
    {
        made->planCall(mPlan.call, mTactic);
    }
    return made;
}

// ---- IPluginV3OneCore --------------------------------------------------------------------------

AsciiChar const* LCCLConvPlugin::getPluginName() const noexcept
{
    return kPLUGIN_NAME;
}

AsciiChar const* LCCLConvPlugin::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

AsciiChar const* LCCLConvPlugin::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

// ---- IPluginV3OneBuildV2 -----------------------------------------------------------------------

int32_t LCCLConvPlugin::getNbOutputs() const noexcept
{
    return 1;
}

int32_t LCCLConvPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            outputTypes[0] = outputType(inputTypes);
            return kSUCCESS;
        });
}

int32_t LCCLConvPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* /*shapeInputs*/,
    int32_t /*nbShapeInputs*/, DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            if (inputs[kX].nbDims != 4 || inputs[kW].nbDims != 4)
            {
                throw std::invalid_argument("X and W must have 4 dimensions");
            }
            auto const combine = [&exprBuilder](DimensionOperation operation, IDimensionExpr const* first, int64_t second)
            { return exprBuilder.operation(operation, *first, *exprBuilder.constant(second)); };
            outputs[0].nbDims = 4;
            outputs[0].d[0] = inputs[kX].d[0];
            outputs[0].d[1] = inputs[kW].d[0];
            for (int32_t axis = 0; axis < 2; ++axis)
            {
                // (size + pads - dilation * (kernel - 1) - 1) / stride + 1
                int64_t const pads = int64_t{mAttributes.pads[axis]} + mAttributes.pads[axis + 2];
                int64_t const dilation = mAttributes.dilations[axis];
                IDimensionExpr const* const extent = combine(DimensionOperation::kPROD, inputs[kW].d[1 + axis], dilation);
                IDimensionExpr const* size = combine(DimensionOperation::kSUM, inputs[kX].d[2 + axis], pads + dilation - 1);
                size = exprBuilder.operation(DimensionOperation::kSUB, *size, *extent);
                size = combine(DimensionOperation::kFLOOR_DIV, size, mAttributes.strides[axis]);
                outputs[0].d[2 + axis] = combine(DimensionOperation::kSUM, size, 1);
            }
            return kSUCCESS;
        });
}

bool LCCLConvPlugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, false,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            return pos >= 0 && pos <= kInputs && takesFormat(mAttributes, pos, inOut);
        });
}

int32_t LCCLConvPlugin::getFormatCombinationLimit() noexcept
{
    return 3; // Each type has one format, and the network says the type.
}

int32_t LCCLConvPlugin::configurePlugin(
    DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            lccl_device const device = currentDevice();
            for (Dims DynamicPluginTensorDesc::* const end : {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt})
            {
                // The least size of a dimension that follows from data may be 0, which no run need
                // have.
                std::vector<PluginTensorDesc> const inputs = inputsAt(in, end);
                if (isPositive(inputs[kX].dims))
                {
                    requireRuns(makeCall(mAttributes, inputs.data()), device, 0);
                }
            }
            lccl_conv_params const largest = makeCall(mAttributes, inputsAt(in, &DynamicPluginTensorDesc::max).data());
            requireRuns(largest, device, 0);
            if (mForBuild) // An engine's workspace was measured where it was built.
            {
                mAttributes.setPlannedDevice(device);
            }
            keepWorkspace(workspaceFor(largest));
            mTactics = tacticsFor(largest);
            return kSUCCESS;
        });
}

lccl_device LCCLConvPlugin::plannedDevice() const
{
    lccl_device const planned = mAttributes.plannedDevice();
    return planned.compute_capability != 0 ? planned : currentDevice();
}

std::vector<int32_t> LCCLConvPlugin::tacticsFor(lccl_conv_params const& call) const
{
    lccl_device const device = plannedDevice();
    std::vector<int32_t> tactics;
    for (int32_t i = 0; i < lccl_conv_config_count(); ++i)
    {
        int32_t const id = lccl_conv_config_at(i)->id;
        if (lccl_conv_supported(&call, &device, id, nullptr, 0) != 0)
        {
            tactics.push_back(id);
        }
    }
    return tactics;
}

int32_t LCCLConvPlugin::getNbTactics() noexcept
{
    return static_cast<int32_t>(mTactics.size());
}

int32_t LCCLConvPlugin::getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept
{
    if (nbTactics != getNbTactics())
    {
        log(Severity::kERROR, mLayer,
            "there are " + std::to_string(mTactics.size()) + " tactics, not " + std::to_string(nbTactics));
        return kFAILURE;
    }
    std::copy(mTactics.begin(), mTactics.end(), tactics);
    return kSUCCESS;
}

size_t LCCLConvPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*outputs*/, int32_t nbOutputs) const noexcept
{
    return guarded(mLayer, kIMPOSSIBLE_WORKSPACE,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            size_t const bytes = workspaceFor(makeCall(mAttributes, inputsAt(inputs, &DynamicPluginTensorDesc::max).data()));
            keepWorkspace(bytes);
            return bytes;
        });
}

size_t LCCLConvPlugin::workspaceFor(lccl_conv_params const& call) const
{
    lccl_device const device = plannedDevice();
    requireRuns(call, device, 0);
    size_t bytes = 0;
    for (int32_t const tactic : tacticsFor(call))
    {
        bytes = std::max(bytes, lccl_conv_workspace(&call, &device, tactic));
    }
    return bytes;
}

void LCCLConvPlugin::keepWorkspace(size_t bytes) const
{
    if (!mForBuild)
    {
        return;
    }
    size_t kept = mWorkspace->load();
    while (kept < bytes && !mWorkspace->compare_exchange_weak(kept, bytes))
    {
    }
}

char const* LCCLConvPlugin::getTimingCacheID() noexcept
{
    return mTimingCacheID.c_str();
}

char const* LCCLConvPlugin::getMetadataString() noexcept
{
    return mDescription.c_str();
}

int32_t LCCLConvPlugin::getAliasedInput(int32_t outputIndex) noexcept
{
    return outputIndex == 0 && *mAttributes.alias_residual == 1 ? kResidual : -1;
}

// ---- IPluginV3OneRuntime -----------------------------------------------------------------------

int32_t LCCLConvPlugin::setTactic(int32_t tactic) noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            if (tactic != 0)
            {
                requireTactic(tactic);
            }
            if (mPlan.call.abi != 0)
            {
                planCall(mPlan.call, tactic);
            }
            mTactic = tactic;
            return kSUCCESS;
        });
}

int32_t LCCLConvPlugin::onShapeChange(
    PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            mPlan = {}; // Shapes that are refused leave none.
            planCall(makeCall(mAttributes, in), mTactic);
            return kSUCCESS;
        });
}

void LCCLConvPlugin::planCall(lccl_conv_params const& call, int32_t tactic)
{
    lccl_device const device = plannedDevice();
    int32_t const configuration = tactic != 0 ? tactic : lccl_conv_choose(&call, &device);
    requireRuns(call, currentDevice(), configuration); // The GPU that it was planned for need not have code here.
    cudaError_t const error = lccl_conv_load(&call, &device, configuration);
    if (error == cudaErrorNotSupported)
    {
        requireRuns(call, device, configuration);
    }
    requireSuccess(error, "the kernels cannot be loaded");
    mPlan = {call, device, configuration, lccl_conv_workspace(&call, &device, configuration)};
}

int32_t LCCLConvPlugin::enqueue(PluginTensorDesc const* /*inputDesc*/, PluginTensorDesc const* /*outputDesc*/,
    void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return guarded(mLayer, kFAILURE,
        [&]
        {
            if (mPlan.call.abi == 0)
            {
                throw std::logic_error("enqueue without onShapeChange");
            }
            Plan plan = mPlan;
            setPointers(plan.call, inputs, outputs[0]);
            plan.call.simulate_gate = mSimulates ? 1 : 0;
            size_t const asked = mWorkspace->load();
            size_t const given = asked != 0 ? asked : plan.workspace;
            cudaError_t const error = lccl_conv_launch(&plan.call, &plan.device, plan.configuration, workspace, given, stream);
            if (error == cudaErrorInvalidValue || error == cudaErrorNotSupported)
            {
                requireStarts(plan.call, plan.device, plan.configuration, workspace, given);
            }
            requireSuccess(error, "the kernels cannot be started");
            return kSUCCESS;
        });
}

IPluginV3* LCCLConvPlugin::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return guarded<IPluginV3*>(mLayer, nullptr,
        [this]
        {
            std::unique_ptr<LCCLConvPlugin> attached = copy();
            // A context runs the network, also that of an engine that was never serialised: its
            // gates are real, unless it is known that only TensorRT's timing makes contexts here.
            attached->mSimulates = mSimulates && *mAttributes.time_by_density == 1;
            return attached.release();
        });
}

PluginFieldCollection const* LCCLConvPlugin::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(mLayer, nullptr,
        [this]
        {
            if (mAttributes.planned_device[0] == 0) // Only of a plugin that was not configured.
            {
                mAttributes.setPlannedDevice(currentDevice());
            }
            mAttributes.setWorkspaceBytes(mWorkspace->load());
            std::vector<FieldUse> const all{FieldUse::kCONTRACT, FieldUse::kOPTIONAL, FieldUse::kINTERNAL};
            mSerialized = std::make_unique<FieldView>(mAttributes, all);
            return mSerialized->get();
        });
}

} // namespace lccl::plugin
