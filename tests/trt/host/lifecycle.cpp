// Leads a plugin through its life, as TensorRT's builder and runtime do.
#include "lifecycle.h"

#include "expressions.h"
#include "steps.h"

#include <cstring>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>

using namespace nvinfer1;

namespace host
{
namespace
{

constexpr int32_t kRetiredTactic = 0x20201; //!< an id that no configuration has any more

void checkShape(IPluginV3OneBuildV2& build, Case const& layer)
{
    ExpressionBuilder builder;
    std::vector<DimsExprs> inputs;
    for (size_t i = 0; i < layer.inputs.size(); ++i)
    {
        Dims const& dims = layer.inputs[i].desc.dims;
        DimsExprs expressions{};
        expressions.nbDims = dims.nbDims;
        for (int32_t axis = 0; axis < dims.nbDims; ++axis)
        {
            bool const dynamic = i == 0 && axis != 1; // batch, height and width of x
            expressions.d[axis] = dynamic ? builder.dynamic(dims.d[axis]) : builder.constant(dims.d[axis]);
        }
        inputs.push_back(expressions);
    }
    DimsExprs output{};
    require(build.getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, &output, 1, builder) == 0,
        "getOutputShapes failed");
    Dims const& expected = layer.output.desc.dims;
    require(output.nbDims == expected.nbDims, "getOutputShapes gives another rank");
    for (int32_t axis = 0; axis < expected.nbDims; ++axis)
    {
        require(
            static_cast<Expression const*>(output.d[axis])->value() == expected.d[axis], "getOutputShapes gives another shape");
    }
}

//! Asks for every type and format at every place, as TensorRT does; the one that is left must be
//! the case's.
void checkFormats(IPluginV3OneBuildV2& build, Case const& layer)
{
    std::vector<DynamicPluginTensorDesc> described = describeForBuild(layer);
    int32_t const inputs = static_cast<int32_t>(layer.inputs.size());
    for (int32_t place = 0; place <= inputs; ++place)
    {
        PluginTensorDesc const right = described[place].desc;
        for (int32_t type = 0; type < 10; ++type)
        {
            for (int32_t format = 0; format < 12; ++format)
            {
                described[place].desc.type = static_cast<DataType>(type);
                described[place].desc.format = static_cast<TensorFormat>(format);
                bool const expected = described[place].desc.type == right.type && described[place].desc.format == right.format;
                // x may be of another type of its own.
                bool const otherType = place == 0 && described[0].desc.type != right.type;
                require(otherType || build.supportsFormatCombination(place, described.data(), inputs, 1) == expected,
                    "supportsFormatCombination is wrong at place " + std::to_string(place) + ", type " + std::to_string(type)
                        + ", format " + std::to_string(format));
            }
        }
        described[place].desc = right;
    }
}

std::vector<int32_t> tacticsOf(IPluginV3OneBuildV2& build)
{
    std::vector<int32_t> tactics(static_cast<size_t>(build.getNbTactics()), 0);
    require(build.getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())) == 0, "getValidTactics failed");
    std::set<int32_t> const unique(tactics.begin(), tactics.end());
    require(!tactics.empty() && unique.size() == tactics.size() && unique.count(0) == 0, "tactics are not unique and non-zero");
    return tactics;
}

std::string factsOf(
    IPluginV3OneBuildV2& build, std::vector<int32_t> const& tactics, size_t workspace, std::vector<Field> const& fields)
{
    std::ostringstream json;
    json << "{\"tactics\": [";
    for (size_t i = 0; i < tactics.size(); ++i)
    {
        json << (i > 0 ? ", " : "") << tactics[i];
    }
    json << "], \"workspace\": " << workspace << ", \"timing_cache_id\": \"" << build.getTimingCacheID()
         << "\", \"metadata\": \"" << build.getMetadataString() << "\", \"aliased_input\": " << build.getAliasedInput(0)
         << ", \"format_limit\": " << build.getFormatCombinationLimit() << ", \"serialised\": [";
    for (size_t i = 0; i < fields.size(); ++i)
    {
        json << (i > 0 ? ", " : "") << '"' << fields[i].name << '"';
    }
    json << "]}";
    return json.str();
}

void checkCore(IPluginV3OneCore& core, IPluginCreatorV3One& creator)
{
    require(std::strcmp(core.getPluginName(), creator.getPluginName()) == 0, "plugin and creator have other names");
    require(std::strcmp(core.getPluginVersion(), creator.getPluginVersion()) == 0, "plugin and creator have other versions");
    require(
        std::strcmp(core.getPluginNamespace(), creator.getPluginNamespace()) == 0, "plugin and creator have other namespaces");
}

void walk(IPluginCreatorV3One& creator, Case const& layer, Result& result)
{
    int32_t const inputs = static_cast<int32_t>(layer.inputs.size());
    std::unique_ptr<IPluginV3> building = create(creator, layer.name, layer.fields, TensorRTPhase::kBUILD);
    Capabilities const parsed = capabilitiesOf(*building);
    checkCore(*parsed.core, creator);

    // The network.
    require(parsed.build->getNbOutputs() == 1, "there is not one output");
    std::vector<DataType> types;
    for (Tensor const& tensor : layer.inputs)
    {
        types.push_back(tensor.desc.type);
    }
    DataType type{};
    require(parsed.build->getOutputDataTypes(&type, 1, types.data(), inputs) == 0, "getOutputDataTypes failed");
    require(type == layer.output.desc.type, "getOutputDataTypes gives another type");
    checkShape(*parsed.build, layer);

    // The builder works on a clone, and times each tactic on clones of that.
    std::unique_ptr<IPluginV3> timed(building->clone());
    require(timed != nullptr, "clone returned null");
    building.reset();
    Capabilities const builder = capabilitiesOf(*timed);
    std::string const cacheId = builder.build->getTimingCacheID();
    checkFormats(*builder.build, layer);
    std::vector<DynamicPluginTensorDesc> const described = describeForBuild(layer);
    require(builder.build->configurePlugin(described.data(), inputs, &described[static_cast<size_t>(inputs)], 1) == 0,
        "configurePlugin failed");
    std::vector<int32_t> const tactics = tacticsOf(*builder.build);
    size_t const workspace = builder.build->getWorkspaceSize(
        described.data(), inputs, &described[static_cast<size_t>(inputs)], 1);
    Context context(layer, workspace);
    std::set<int32_t> const ends{tactics.front(), tactics.back()}; // Enough for what does not depend on the tactic.
    for (int32_t const tactic : ends)
    {
        std::unique_ptr<IPluginV3> const clone(timed->clone());
        result.outputs.push_back({"timed " + std::to_string(tactic), context.run(*capabilitiesOf(*clone).runtime, tactic)});
    }
    require(cacheId == builder.build->getTimingCacheID(), "the timing cache's id has changed");
    std::vector<Field> const fields = serialised(*builder.runtime);
    result.facts = factsOf(*builder.build, tactics, workspace, fields);

    // Engines: one that was never serialised, with two contexts, and one that was.
    std::unique_ptr<IPluginV3> const first(builder.runtime->attachToContext(nullptr));
    std::unique_ptr<IPluginV3> const second(builder.runtime->attachToContext(nullptr));
    require(first != nullptr && second != nullptr && first != second, "attachToContext did not make a plugin for each context");
    std::unique_ptr<IPluginV3> const loaded = create(creator, layer.name, fields, TensorRTPhase::kRUNTIME);
    std::unique_ptr<IPluginV3> const running(capabilitiesOf(*loaded).runtime->attachToContext(nullptr));
    timed.reset();
    Context other(layer, workspace);
    for (int32_t const tactic : tactics)
    {
        std::string const number = std::to_string(tactic);
        if (ends.count(tactic) == 0)
        {
            result.outputs.push_back({"context " + number, context.run(*capabilitiesOf(*first).runtime, tactic)});
        }
        else
        {
            // Both at once, each on its own stream.
            context.start(*capabilitiesOf(*first).runtime, tactic);
            other.start(*capabilitiesOf(*second).runtime, tactic);
            result.outputs.push_back({"context " + number, context.finish()});
            result.outputs.push_back({"second context " + number, other.finish()});
            if (context.runCaptured(*capabilitiesOf(*first).runtime, tactic))
            {
                result.outputs.push_back({"captured " + number, context.finish()});
            }
            result.outputs.push_back({"runtime " + number, context.run(*capabilitiesOf(*running).runtime, tactic)});
        }
    }
    result.outputs.push_back({"context 0", context.run(*capabilitiesOf(*first).runtime, 0)});
    require(capabilitiesOf(*first).runtime->setTactic(kRetiredTactic) != 0, "setTactic takes an id that is retired");
    require(capabilitiesOf(*first).runtime->setTactic(0x7fffffff) != 0, "setTactic takes an id that does not exist");
}

} // namespace

Result live(IPluginCreatorV3One& creator, Case const& layer)
{
    Result result;
    try
    {
        walk(creator, layer, result);
    }
    catch (std::exception const& error)
    {
        result.problem = error.what();
    }
    return result;
}

} // namespace host
