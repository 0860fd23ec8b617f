// One section for each of TensorRT's interfaces, in the order in which TensorRT goes through them.

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

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = 1;
constexpr size_t kReasonBytes = 512;

void requireCounts(int32_t nbInputs, int32_t nbOutputs)
{
    if (nbInputs != kINPUTS || nbOutputs != 1)
    {
        throw std::invalid_argument(
            "the op has nine inputs and one output, not " + std::to_string(nbInputs) + " and " + std::to_string(nbOutputs));
    }
}

//! Why a configuration (0: any) cannot run a call; empty if it can.
std::string refusal(lccl_conv_params const& call, lccl_device const& device, int32_t configuration)
{
    char reason[kReasonBytes] = "";
    return lccl_conv_supported(&call, &device, configuration, reason, sizeof(reason)) != 0 ? std::string{} : std::string(reason);
}

void requireRuns(lccl_conv_params const& call, lccl_device const& device, int32_t configuration)
{
    std::string const reason = refusal(call, device, configuration);
    if (!reason.empty())
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

bool isPositive(Dims const& dims)
{
    return std::all_of(dims.d, dims.d + std::max(dims.nbDims, 0), [](int64_t size) { return size > 0; });
}

//! A call that a configuration takes on any GPU that it is for.
lccl_conv_params smallestCall(lccl_conv_config const& config)
{
    lccl_conv_params call{};
    call.abi = LCCL_CUDA_ABI;
    call.dtype = config.engine == LCCL_SIMT ? LCCL_FLOAT32 : LCCL_FLOAT16;
    call.layout = LCCL_NHWC;
    call.n = call.c = call.h = call.w = call.k = call.r = call.s = 1;
    call.grid = config.family == LCCL_BLOCK ? 2 : 1;
    std::fill_n(call.strides, 2, 1);
    std::fill_n(call.dilations, 2, 1);
    call.density = -1;
    return call;
}

//! The inputs at one end of their profiles; what has none, as weights may, is as it is.
std::vector<PluginTensorDesc> inputsAt(DynamicPluginTensorDesc const* inputs, Dims DynamicPluginTensorDesc::*end)
{
    std::vector<PluginTensorDesc> at;
    for (int32_t i = 0; i < kINPUTS; ++i)
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
    , mDescription(describe(mAttributes))
    , mTimingCacheID(mDescription + " kernels=" + kKernelHash)
{
}

LCCLConvPlugin::LCCLConvPlugin(LCCLConvPlugin const& other)
    : mAttributes(other.mAttributes)
    , mLayer(other.mLayer)
    , mForBuild(other.mForBuild)
    , mSimulates(other.mSimulates)
    , mTactic(other.mTactic)
    , mTactics(other.mTactics)
    , mCall(other.mCall)
    , mConfiguration(other.mConfiguration)
    , mWorkspace(other.mWorkspace)
    , mCurrentDevice(other.mCurrentDevice)
    , mDescription(other.mDescription)
    , mTimingCacheID(other.mTimingCacheID)
{
}

// ---- IPluginV3 -----------------------------------------------------------------------------------------------------------------

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
    return guarded<IPluginV3*>(mLayer, nullptr, [this] { return new LCCLConvPlugin(*this); });
}

// ---- IPluginV3OneCore ----------------------------------------------------------------------------------------------------------

AsciiChar const* LCCLConvPlugin::getPluginName() const noexcept
{
    return kPluginName;
}

AsciiChar const* LCCLConvPlugin::getPluginVersion() const noexcept
{
    return kPluginVersion;
}

AsciiChar const* LCCLConvPlugin::getPluginNamespace() const noexcept
{
    return kPluginNamespace;
}

// ---- IPluginV3OneBuildV2 -------------------------------------------------------------------------------------------------------

int32_t LCCLConvPlugin::getNbOutputs() const noexcept
{
    return 1;
}

int32_t LCCLConvPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    return guarded(mLayer, kFailure,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            outputTypes[0] = outputType(inputTypes);
            return kSuccess;
        });
}

int32_t LCCLConvPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* /*shapeInputs*/,
    int32_t /*nbShapeInputs*/, DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept
{
    return guarded(mLayer, kFailure,
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
            return kSuccess;
        });
}

bool LCCLConvPlugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, false,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            return pos >= 0 && pos <= kINPUTS && takesFormat(mAttributes, pos, inOut);
        });
}

int32_t LCCLConvPlugin::getFormatCombinationLimit() noexcept
{
    return 3; // Each type has one format, and the network says the type.
}

int32_t LCCLConvPlugin::configurePlugin(
    DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, kFailure,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            for (Dims DynamicPluginTensorDesc::*const end : {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt})
            {
                // The least size of a dimension that follows from data may be 0, which no run need have.
                std::vector<PluginTensorDesc> const inputs = inputsAt(in, end);
                if (isPositive(inputs[kX].dims))
                {
                    requireRuns(makeCall(mAttributes, inputs.data()), currentDevice(), 0);
                }
            }
            lccl_conv_params const largest = makeCall(mAttributes, inputsAt(in, &DynamicPluginTensorDesc::max).data());
            requireRuns(largest, currentDevice(), 0);
            planForCurrentDevice();
            mTactics = tacticsFor(largest);
            return kSuccess;
        });
}

lccl_device const& LCCLConvPlugin::currentDevice() const
{
    if (mCurrentDevice.compute_capability == 0)
    {
        requireSuccess(lccl_device_query(-1, &mCurrentDevice), "no CUDA device can be used");
    }
    return mCurrentDevice;
}

void LCCLConvPlugin::planForCurrentDevice()
{
    if (mForBuild) // An engine's workspace was measured where it was built.
    {
        lccl_device const& device = currentDevice();
        int32_t const planned[] = {device.compute_capability, device.sm_count, device.shared_per_block, device.shared_per_sm};
        std::copy(std::begin(planned), std::end(planned), mAttributes.planned_device);
    }
}

lccl_device LCCLConvPlugin::plannedDevice() const
{
    lccl_device const planned = mAttributes.device();
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
        log(Severity::kERROR, mLayer, "there are " + std::to_string(mTactics.size()) + " tactics, not " + std::to_string(nbTactics));
        return kFailure;
    }
    std::copy(mTactics.begin(), mTactics.end(), tactics);
    return kSuccess;
}

size_t LCCLConvPlugin::getWorkspaceSize(
    DynamicPluginTensorDesc const* inputs, int32_t nbInputs, DynamicPluginTensorDesc const* /*outputs*/, int32_t nbOutputs) const noexcept
{
    return guarded(mLayer, size_t{0},
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            // The largest that any tactic takes: TensorRT asks before it has chosen one.
            lccl_conv_params const call = makeCall(mAttributes, inputsAt(inputs, &DynamicPluginTensorDesc::max).data());
            lccl_device const device = plannedDevice();
            size_t bytes = 0;
            for (int32_t const tactic : tacticsFor(call))
            {
                bytes = std::max(bytes, lccl_conv_workspace(&call, &device, tactic));
            }
            return bytes;
        });
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
    return outputIndex == 0 && *mAttributes.alias_residual == 1 ? kRESIDUAL : -1;
}

// ---- IPluginV3OneRuntime -------------------------------------------------------------------------------------------------------

int32_t LCCLConvPlugin::setTactic(int32_t tactic) noexcept
{
    return guarded(mLayer, kFailure,
        [&]
        {
            if (tactic != 0)
            {
                requireTactic(tactic);
            }
            if (mCall.abi != 0)
            {
                planCall(mCall, tactic);
            }
            mTactic = tactic;
            return kSuccess;
        });
}

void LCCLConvPlugin::requireTactic(int32_t tactic) const
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
    throw std::invalid_argument("tactic " + std::to_string(tactic) + " is of another version of the plugin: build the engine again");
}

int32_t LCCLConvPlugin::onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded(mLayer, kFailure,
        [&]
        {
            requireCounts(nbInputs, nbOutputs);
            lccl_conv_params const call = makeCall(mAttributes, in);
            planCall(call, mTactic);
            mCall = call;
            return kSuccess;
        });
}

void LCCLConvPlugin::planCall(lccl_conv_params const& call, int32_t tactic)
{
    lccl_device const device = plannedDevice();
    int32_t const configuration = tactic != 0 ? tactic : lccl_conv_choose(&call, &device);
    requireRuns(call, device, configuration);
    requireRuns(call, currentDevice(), configuration);
    if (configuration != mConfiguration) // The first call's code is loaded before anybody captures it.
    {
        requireSuccess(lccl_conv_load(&call, &device, configuration), "the kernels cannot be loaded");
    }
    mConfiguration = configuration;
    mWorkspace = lccl_conv_workspace(&call, &device, configuration);
}

int32_t LCCLConvPlugin::enqueue(PluginTensorDesc const* /*inputDesc*/, PluginTensorDesc const* /*outputDesc*/, void const* const* inputs,
    void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return guarded(mLayer, kFailure,
        [&]
        {
            if (mCall.abi == 0)
            {
                throw std::logic_error("enqueue without onShapeChange");
            }
            lccl_conv_params call = mCall;
            setPointers(call, inputs, outputs[0]);
            call.simulate_gate = mSimulates ? 1 : 0;
            lccl_device const device = plannedDevice();
            requireSuccess(lccl_conv_launch(&call, &device, mConfiguration, workspace, mWorkspace, stream), "the kernels cannot be started");
            return kSuccess;
        });
}

IPluginV3* LCCLConvPlugin::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return guarded<IPluginV3*>(mLayer, nullptr,
        [this]
        {
            auto attached = std::make_unique<LCCLConvPlugin>(*this);
            // A context runs the network, also that of an engine that was never serialised: its gates are real, unless it is known
            // that only TensorRT's timing makes contexts here.
            attached->mSimulates = mSimulates && *mAttributes.time_by_density == 1;
            return attached.release();
        });
}

PluginFieldCollection const* LCCLConvPlugin::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(mLayer, nullptr,
        [this]
        {
            if (mForBuild && mAttributes.planned_device[0] == 0)
            {
                planForCurrentDevice();
            }
            std::vector<FieldUse> const all{FieldUse::kCONTRACT, FieldUse::kOPTIONAL, FieldUse::kINTERNAL};
            mSerialized = std::make_unique<FieldView>(mAttributes, all);
            return mSerialized->get();
        });
}

} // namespace lccl::plugin
