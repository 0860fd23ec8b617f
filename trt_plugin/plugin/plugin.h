// The V3 plugin of lccl::LCCLConv: TensorRT's calls on one side, the kernels' C interface on the
// other.
#pragma once

#include "attributes.h"
#include "call.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace lccl::plugin
{

//! One layer. TensorRT clones it for each execution context; clones share the size of the workspace
//! and nothing else.
class LCCLConvPlugin final : public nvinfer1::IPluginV3,
                             public nvinfer1::IPluginV3OneCore,
                             public nvinfer1::IPluginV3OneBuildV2,
                             public nvinfer1::IPluginV3OneRuntime
{
public:
    //! \param building made for a network definition: TensorRT times tactics on inputs that mean
    //! nothing, so gates are simulated
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
        int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
        nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(
        int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept override;
    int32_t getFormatCombinationLimit() noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
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
    //! The plan for the current shapes. It does not depend on the current GPU, which may be another
    //! one in a clone.
    struct Plan
    {
        lccl_conv_params call{}; //!< abi 0: there is no plan
        lccl_device device{};    //!< that it is planned for
        int32_t configuration{0};
        size_t workspace{0}; //!< bytes that the call needs
    };

    //! A copy whose plan, if there is one, runs on the current GPU.
    //! \throw std::exception if it does not run there
    std::unique_ptr<LCCLConvPlugin> copy() const;

    //! The GPU that calls are planned for: the one of the build, since the workspace was measured
    //! out there.
    lccl_device plannedDevice() const;

    //! Configurations that can run a call on the planned device, in the table's order.
    std::vector<int32_t> tacticsFor(lccl_conv_params const& call) const;

    //! The largest workspace that any tactic takes for a call, since TensorRT asks before it has
    //! chosen one.
    //! \throw std::invalid_argument if no tactic runs it
    size_t workspaceFor(lccl_conv_params const& call) const;

    //! Keeps the largest workspace that TensorRT was asked for; not in an engine, whose memory is
    //! laid out already.
    void keepWorkspace(size_t bytes) const;

    //! Plans a call and loads its kernels, so that nothing of that is left for enqueue, which may
    //! be captured.
    //! \throw std::exception if the call does not run on the planned GPU or on the current one
    void planCall(lccl_conv_params const& call, int32_t tactic);

    Attributes mAttributes;
    std::string mLayer;
    bool mForBuild;                //!< Made for a network definition, and not for an engine.
    bool mSimulates;               //!< Gates are simulated: TensorRT times tactics.
    int32_t mTactic{0};            //!< 0: the kernels' own choice.
    std::vector<int32_t> mTactics; //!< Of the last configurePlugin.
    //! Bytes that TensorRT was asked for, or would be, and so gives to enqueue; 0: not known.
    //! Shared with clones, since TensorRT may ask one of them and serialise another.
    std::shared_ptr<std::atomic<size_t>> mWorkspace;
    Plan mPlan; //!< Of the last onShapeChange.
    std::string mDescription;
    std::string mTimingCacheID;
    std::unique_ptr<FieldView> mSerialized;
};

} // namespace lccl::plugin
