// Makes plugins for TensorRT's registry.
#include "creator.h"

#include "logging.h"
#include "plugin.h"

using namespace nvinfer1;

namespace lccl::plugin
{

LCCLConvCreator::LCCLConvCreator()
    : mFields(mDefaults, {FieldUse::kCONTRACT, FieldUse::kOPTIONAL})
{
}

IPluginV3* LCCLConvCreator::createPlugin(AsciiChar const* name, PluginFieldCollection const* fc, TensorRTPhase phase) noexcept
{
    std::string const layer = name == nullptr ? "" : name;
    return guarded<IPluginV3*>(
        layer, nullptr, [&] { return new LCCLConvPlugin(readFields(fc, phase), layer, phase == TensorRTPhase::kBUILD); });
}

PluginFieldCollection const* LCCLConvCreator::getFieldNames() noexcept
{
    return mFields.get();
}

AsciiChar const* LCCLConvCreator::getPluginName() const noexcept
{
    return kPLUGIN_NAME;
}

AsciiChar const* LCCLConvCreator::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

AsciiChar const* LCCLConvCreator::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

} // namespace lccl::plugin
