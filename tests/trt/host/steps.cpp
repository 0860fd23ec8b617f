// The steps of a plugin's life, each a function.
#include "steps.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

using namespace nvinfer1;

namespace host
{
namespace
{

constexpr unsigned char kPoison = 0xFF;

bool isInterface(IVersionedInterface const& object, char const* kind, int32_t major)
{
    InterfaceInfo const info = object.getInterfaceInfo();
    return std::strcmp(info.kind, kind) == 0 && info.major == major && info.minor == 0
        && object.getAPILanguage() == APILanguage::kCPP;
}

DynamicPluginTensorDesc describeMap(PluginTensorDesc const& desc, int64_t batch)
{
    DynamicPluginTensorDesc described{desc, desc.dims, desc.dims, desc.dims};
    described.min.d[0] = 1;
    described.max.d[0] = 2 * batch;
    for (int32_t const axis : {0, 2, 3})
    {
        described.desc.dims.d[axis] = -1;
    }
    return described;
}

bool isMap(PluginTensorDesc const& desc, int64_t batch)
{
    Dims const& dims = desc.dims;
    return dims.nbDims == 4 && dims.d[0] == batch && (dims.d[1] != 1 || dims.d[2] != 1 || dims.d[3] != 1);
}

} // namespace

void require(bool holds, std::string const& what)
{
    if (!holds)
    {
        throw std::runtime_error(what);
    }
}

Capabilities capabilitiesOf(IPluginV3& plugin)
{
    require(isInterface(plugin, "PLUGIN", 1), "the plugin is no IPluginV3");
    auto* const core = plugin.getCapabilityInterface(PluginCapabilityType::kCORE);
    auto* const build = plugin.getCapabilityInterface(PluginCapabilityType::kBUILD);
    auto* const runtime = plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME);
    require(core != nullptr && isInterface(*core, "PLUGIN_V3ONE_CORE", 1), "no core capability");
    require(build != nullptr && isInterface(*build, "PLUGIN_V3ONE_BUILD", 2), "no build capability of version 2");
    require(runtime != nullptr && isInterface(*runtime, "PLUGIN_V3ONE_RUNTIME", 1), "no runtime capability");
    return {static_cast<IPluginV3OneCore*>(core), static_cast<IPluginV3OneBuildV2*>(build),
        static_cast<IPluginV3OneRuntime*>(runtime)};
}

std::unique_ptr<IPluginV3> create(
    IPluginCreatorV3One& creator, std::string const& name, std::vector<Field> const& fields, TensorRTPhase phase)
{
    std::vector<PluginField> views;
    for (Field const& field : fields)
    {
        views.emplace_back(field.name.c_str(), field.data.empty() ? nullptr : field.data.data(), field.type, field.length);
    }
    PluginFieldCollection collection;
    collection.nbFields = static_cast<int32_t>(views.size());
    collection.fields = views.data();
    std::unique_ptr<IPluginV3> plugin(creator.createPlugin(name.c_str(), &collection, phase));
    require(plugin != nullptr, "createPlugin returned null");
    return plugin;
}

std::vector<Field> serialised(IPluginV3OneRuntime& runtime)
{
    PluginFieldCollection const* const collection = runtime.getFieldsToSerialize();
    require(collection != nullptr, "getFieldsToSerialize returned null");
    std::vector<Field> fields;
    for (int32_t i = 0; i < collection->nbFields; ++i)
    {
        PluginField const& field = collection->fields[i];
        int32_t const size = field.type == PluginFieldType::kCHAR ? 1 : 4;
        auto const* const begin = static_cast<unsigned char const*>(field.data);
        fields.push_back({field.name, field.type, field.length, Bytes(begin, begin + field.length * size)});
    }
    return fields;
}

std::vector<DynamicPluginTensorDesc> describeForBuild(Case const& layer)
{
    int64_t const batch = layer.inputs[0].desc.dims.d[0];
    std::vector<DynamicPluginTensorDesc> described;
    for (size_t i = 0; i < layer.inputs.size(); ++i)
    {
        PluginTensorDesc const& desc = layer.inputs[i].desc;
        bool const follows = i == 0 || ((i == 5 || i == 8) && isMap(desc, batch)); // x, gate, residual
        described.push_back(
            follows ? describeMap(desc, batch) : DynamicPluginTensorDesc{desc, desc.dims, desc.dims, desc.dims});
    }
    described.push_back(describeMap(layer.output.desc, batch));
    return described;
}

Context::Context(Case const& layer, size_t workspaceSize)
    : mLayer(layer)
    , mWorkspace(workspaceSize)
    , mOutput(layer.output.memory.size())
{
    for (Tensor const& tensor : layer.inputs)
    {
        mDescriptions.push_back(tensor.desc);
        mInputs.emplace_back(tensor.memory.size());
        mInputs.back().write(tensor.memory);
        inputs.push_back(mInputs.back().get());
    }
    output = mOutput.get();
    workspace = mWorkspace.get();
}

void Context::start(IPluginV3OneRuntime& runtime, int32_t tactic)
{
    prepare(runtime, tactic);
    require(enqueue(runtime) == 0, "enqueue failed");
}

Bytes Context::finish()
{
    mStream.wait();
    return mOutput.read(mLayer.output.memory.size());
}

Bytes Context::run(IPluginV3OneRuntime& runtime, int32_t tactic)
{
    start(runtime, tactic);
    return finish();
}

bool Context::runCaptured(IPluginV3OneRuntime& runtime, int32_t tactic)
{
    prepare(runtime, tactic);
    return mStream.runCaptured([this, &runtime] { require(enqueue(runtime) == 0, "enqueue failed"); });
}

void Context::poison()
{
    mWorkspace.fill(kPoison);
    mOutput.fill(kPoison);
}

bool Context::isPoisoned() const
{
    Bytes const bytes = mOutput.read(mLayer.output.memory.size());
    return std::all_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte == kPoison; });
}

int32_t Context::changeShapes(IPluginV3OneRuntime& runtime)
{
    return runtime.onShapeChange(mDescriptions.data(), static_cast<int32_t>(mDescriptions.size()), &mLayer.output.desc, 1);
}

int32_t Context::enqueue(IPluginV3OneRuntime& runtime)
{
    void* outputs[] = {output};
    return runtime.enqueue(mDescriptions.data(), &mLayer.output.desc, inputs.data(), outputs, workspace, mStream.get());
}

void Context::prepare(IPluginV3OneRuntime& runtime, int32_t tactic)
{
    require(runtime.setTactic(tactic) == 0, "setTactic failed");
    require(changeShapes(runtime) == 0, "onShapeChange failed");
    poison();
}

} // namespace host
