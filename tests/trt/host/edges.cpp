// Calls with workspaces too small, wrong pointers, and the workspace that an engine keeps.
#include "edges.h"

#include "steps.h"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <type_traits>

using namespace nvinfer1;

namespace host
{
namespace
{

constexpr size_t kPlenty = size_t{1} << 20;
constexpr char const* kWorkspaceField = "workspace_bytes";

template <typename Body>
Result guarded(Body&& body)
{
    Result result;
    try
    {
        body(result);
    }
    catch (std::exception const& error)
    {
        result.problem = error.what();
    }
    return result;
}

std::string quoted(std::string const& text)
{
    return '"' + text + '"';
}

//! What a plugin serialises of the workspace.
uint64_t keptBy(IPluginV3& plugin)
{
    std::vector<Field> const fields = serialised(*capabilitiesOf(plugin).runtime);
    auto const found = std::find_if(
        fields.begin(), fields.end(), [](Field const& field) { return field.name == kWorkspaceField; });
    require(found != fields.end(), "no field for the workspace is serialised");
    uint64_t bytes = 0;
    require(found->data.size() == sizeof(bytes), "the field for the workspace is not of 64 bits");
    std::memcpy(&bytes, found->data.data(), sizeof(bytes));
    return bytes;
}

//! A builder's calls, with profiles that end at the case's own sizes or above.
class Builder
{
public:
    explicit Builder(Case const& layer)
        : mLarge(describeForBuild(layer))
        , mSmall(mLarge)
    {
        for (DynamicPluginTensorDesc& described : mSmall)
        {
            described.max = described.opt;
        }
    }

    void configure(IPluginV3& plugin, bool large) const
    {
        auto const& described = large ? mLarge : mSmall;
        require(capabilitiesOf(plugin).build->configurePlugin(described.data(), count(), &described.back(), 1) == 0,
            "configurePlugin failed");
    }

    uint64_t ask(IPluginV3& plugin, bool large) const
    {
        auto const& described = large ? mLarge : mSmall;
        return capabilitiesOf(plugin).build->getWorkspaceSize(described.data(), count(), &described.back(), 1);
    }

    //! Asks for shapes that the op does not allow.
    uint64_t askInVain(IPluginV3& plugin) const
    {
        std::vector<DynamicPluginTensorDesc> wrong = mLarge;
        wrong[1].desc.dims.d[3] += 1;
        wrong[1].max.d[3] += 1;
        return capabilitiesOf(plugin).build->getWorkspaceSize(wrong.data(), count(), &wrong.back(), 1);
    }

private:
    int32_t count() const
    {
        return static_cast<int32_t>(mLarge.size()) - 1;
    }

    std::vector<DynamicPluginTensorDesc> mLarge;
    std::vector<DynamicPluginTensorDesc> mSmall;
};

} // namespace

Result runEngine(IPluginCreatorV3One& creator, Case const& layer)
{
    return guarded(
        [&](Result& result)
        {
            std::unique_ptr<IPluginV3> const loaded = create(creator, layer.name, layer.fields, TensorRTPhase::kRUNTIME);
            std::unique_ptr<IPluginV3> const running(capabilitiesOf(*loaded).runtime->attachToContext(nullptr));
            require(running != nullptr, "attachToContext failed");
            IPluginV3OneRuntime& runtime = *capabilitiesOf(*running).runtime;
            Context context(layer, kPlenty);
            context.poison();
            require(context.changeShapes(runtime) == 0, "onShapeChange failed");
            int32_t const code = context.enqueue(runtime);
            result.outputs.push_back({"y", context.finish()});
            result.facts = std::string("{\"untouched\": ") + (context.isPoisoned() ? "true" : "false") + "}";
            require(code == 0, "enqueue failed");
        });
}

Result keepWorkspace(IPluginCreatorV3One& creator, Case const& layer)
{
    return guarded(
        [&](Result& result)
        {
            auto const network = [&] { return create(creator, layer.name, layer.fields, TensorRTPhase::kBUILD); };
            Builder const builder(layer);
            std::ostringstream json;
            auto const clone = [](IPluginV3& plugin) { return std::unique_ptr<IPluginV3>(plugin.clone()); };
            auto const tell = [&json](char const* name, uint64_t bytes)
            { json << (json.tellp() > 0 ? ", " : "{") << quoted(name) << ": " << bytes; };

            std::unique_ptr<IPluginV3> const unasked = network();
            tell("neither", keptBy(*unasked));
            std::unique_ptr<IPluginV3> const asked = network();
            tell("small", builder.ask(*asked, false));
            tell("asked", keptBy(*asked));
            tell("large", builder.ask(*asked, true));
            tell("asked twice", keptBy(*asked));
            std::unique_ptr<IPluginV3> const configured = network();
            builder.configure(*configured, true);
            tell("configured", keptBy(*configured));
            tell("clone", keptBy(*clone(*configured)));
            std::unique_ptr<IPluginV3> const attached(capabilitiesOf(*configured).runtime->attachToContext(nullptr));
            tell("context", keptBy(*attached));
            builder.configure(*configured, false);
            builder.ask(*configured, false);
            tell("smaller afterwards", keptBy(*configured));
            tell("failed", builder.askInVain(*configured));
            tell("after a failure", keptBy(*configured));
            std::unique_ptr<IPluginV3> const original = network();
            builder.configure(*original, false); // one profile
            std::unique_ptr<IPluginV3> const other = clone(*original);
            builder.configure(*other, true); // another one, of a clone
            tell("by a clone", keptBy(*original));

            std::unique_ptr<IPluginV3> const engine = create(
                creator, layer.name, serialised(*capabilitiesOf(*asked).runtime), TensorRTPhase::kRUNTIME);
            tell("engine", keptBy(*engine));
            std::unique_ptr<IPluginV3> const without = create(
                creator, layer.name, serialised(*capabilitiesOf(*unasked).runtime), TensorRTPhase::kRUNTIME);
            builder.ask(*without, true);
            tell("engine that is asked", keptBy(*without));
            json << "}";
            result.facts = json.str();
        });
}

Result misplacePointers(IPluginCreatorV3One& creator, Case const& layer)
{
    return guarded(
        [&](Result& result)
        {
            std::unique_ptr<IPluginV3> const plugin = create(creator, layer.name, layer.fields, TensorRTPhase::kBUILD);
            Builder const builder(layer);
            builder.configure(*plugin, true);
            std::unique_ptr<IPluginV3> const running(capabilitiesOf(*plugin).runtime->attachToContext(nullptr));
            require(running != nullptr, "attachToContext failed");
            IPluginV3OneRuntime& runtime = *capabilitiesOf(*running).runtime;
            Context context(layer, static_cast<size_t>(builder.ask(*plugin, true)));
            require(context.changeShapes(runtime) == 0, "onShapeChange failed");
            std::ostringstream json;
            auto const tryWith = [&](std::string const& name)
            {
                context.poison();
                if (context.enqueue(runtime) != 0 && context.isPoisoned())
                {
                    json << (json.tellp() > 0 ? ", " : "{\"refused\": [") << quoted(name);
                }
            };
            auto const misplace = [&](std::string const& name, auto& pointer, bool isVector)
            {
                using Pointer = std::remove_reference_t<decltype(pointer)>;
                Pointer const right = pointer;
                pointer = nullptr;
                tryWith(name + " null");
                if (isVector)
                {
                    pointer = reinterpret_cast<Pointer>(reinterpret_cast<uintptr_t>(right) + 2);
                    tryWith(name + " misaligned");
                }
                pointer = right;
            };
            char const* const names[] = {"X", "W", "B", "gate_W", "gate_B", "gate", "post_scale", "post_bias", "residual"};
            for (size_t i = 0; i < context.inputs.size(); ++i)
            {
                bool const isVector = i == 0 || i == 1 || i == 3 || i == 8;
                misplace(names[i], context.inputs[i], isVector);
            }
            misplace("Y", context.output, true);
            misplace("workspace", context.workspace, true);
            json << "]}";
            result.facts = json.str();
            context.poison();
            require(context.enqueue(runtime) == 0, "enqueue failed with all pointers right");
            result.outputs.push_back({"y", context.finish()});
        });
}

} // namespace host
