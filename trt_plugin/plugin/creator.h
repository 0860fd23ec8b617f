// The creator in TensorRT's registry: makes plugins from a node's attributes or from an engine's
// fields, by the same code.
#pragma once

#include "attributes.h"

namespace lccl::plugin
{

class LCCLConvCreator final : public nvinfer1::IPluginCreatorV3One
{
public:
    LCCLConvCreator();

    //! \param name of the layer, for messages
    //! \return null after a logged sentence
    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name, nvinfer1::PluginFieldCollection const* fc,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

private:
    Attributes mDefaults;
    FieldView mFields; //!< Names, types and defaults of what a node has.
};

} // namespace lccl::plugin
