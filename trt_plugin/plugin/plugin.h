// The V3 plugin of lccl::LCCLConv: TensorRT's calls on one side, the kernels' C interface on the other.
#pragma once

#include "attributes.h"
#include "call.h"

#include <memory>
#include <string>
#include <vector>

namespace lccl::plugin
{

//! One layer. TensorRT clones it for each execution context; clones share nothing.
class LCCLConvPlugin final : public nvinfer1::IPluginV3,
                             public nvinfer1::IPluginV3OneCore,
                             public nvinfer1::IPluginV3OneBuildV2,
                             public nvinfer1::IPluginV3OneRuntime
{
public:
    //! \param building made for a network definition: TensorRT times tactics on inputs that mean nothing, so gates are simulated
    LCCLConvPlugin(Attributes attributes, std::string layer, bool building);
    LCCLConvPlugin(LCCLConvPlugin const& other);

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuildV2
    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs, nvinfer1::DataType const* inputTypes,
        int32_t nbInputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs, nvinfer1::DimsExprs const* shapeInputs,
        int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs, nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(
        int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept override;
    int32_t getFormatCombinationLimit() noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs, nvinfer1::DynamicPluginTensorDesc const* out,
        int32_t nbOutputs) noexcept override;
    int32_t getNbTactics() noexcept override;
    int32_t getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept override;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t nbOutputs) const noexcept override;
    char const* getTimingCacheID() noexcept override;
    char const* getMetadataString() noexcept override;
    int32_t getAliasedInput(int32_t outputIndex) noexcept override;

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept override;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs, nvinfer1::PluginTensorDesc const* out,
        int32_t nbOutputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    //! The GPU at hand, asked for once.
    lccl_device const& currentDevice() const;

    //! The GPU that calls are planned for: the one of the build, since the workspace was measured out there.
    lccl_device plannedDevice() const;

    //! Configurations that can run a call on the planned device, in the table's order.
    std::vector<int32_t> tacticsFor(lccl_conv_params const& call) const;

    //! \throw std::invalid_argument with a sentence: the configuration does not run on the GPU at hand.
    void requireTactic(int32_t tactic) const;

    //! The plan for the shapes at hand: which configuration, and how much workspace it takes.
    void planCall(lccl_conv_params const& call, int32_t tactic);

    //! Keeps the GPU at hand as the one that the engine is planned for; not in an engine.
    void planForCurrentDevice();

    Attributes mAttributes;
    std::string mLayer;
    bool mForBuild;  //!< Made for a network definition, and not for an engine.
    bool mSimulates; //!< Gates are simulated: TensorRT times tactics.
    int32_t mTactic{0};             //!< 0: the kernels' own choice.
    std::vector<int32_t> mTactics;  //!< Of the last configurePlugin.
    lccl_conv_params mCall{};       //!< Of the last onShapeChange; abi 0: none.
    int32_t mConfiguration{0};
    size_t mWorkspace{0};
    mutable lccl_device mCurrentDevice{}; //!< compute_capability 0: not asked yet.
    std::string mDescription;
    std::string mTimingCacheID;
    std::unique_ptr<FieldView> mSerialized;
};

} // namespace lccl::plugin
