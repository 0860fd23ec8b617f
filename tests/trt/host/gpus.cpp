// The linker sends the plugin's calls of these functions here (--wrap), and __real_ to the emulated
// machine.

#include "gpus.h"

#include "steps.h"

#include "lccl_cuda.h"

#include <cstdio>
#include <functional>
#include <sstream>
#include <stdexcept>

using namespace nvinfer1;

namespace
{

constexpr lccl_device kFirst{90, 132, 232448, 233472}; // the emulated machine's own
constexpr lccl_device kOther{80, 108, 166912, 167936};
constexpr lccl_device kTooOld{75, 40, 65536, 65536};

lccl_device gpu = kFirst;
cudaError_t problem = cudaSuccess;
int32_t queries = 0;
int32_t without = 0; // the compute capability that the library has no code for
std::vector<int32_t> loads;

} // namespace

extern "C"
{
cudaError_t __real_lccl_conv_load(lccl_conv_params const* params, lccl_device const* device, int32_t config);

cudaError_t __wrap_lccl_conv_load(lccl_conv_params const* params, lccl_device const* device, int32_t config)
{
    loads.push_back(gpu.compute_capability);
    return __real_lccl_conv_load(params, device, config);
}

int32_t __real_lccl_conv_supported(
    lccl_conv_params const* params, lccl_device const* device, int32_t config, char* reason, size_t reasonSize);

int32_t __wrap_lccl_conv_supported(
    lccl_conv_params const* params, lccl_device const* device, int32_t config, char* reason, size_t reasonSize)
{
    if (device->compute_capability == without)
    {
        std::snprintf(reason, reasonSize, "no code for compute capability %d", without);
        return 0;
    }
    return __real_lccl_conv_supported(params, device, config, reason, reasonSize);
}

cudaError_t __wrap_lccl_device_query(int32_t /*ordinal*/, lccl_device* device)
{
    ++queries;
    *device = gpu;
    return problem;
}
}

namespace host
{
namespace
{

class Report
{
public:
    void step(std::string const& name, std::function<bool()> const& call)
    {
        loads.clear();
        bool const done = call();
        mLoads << (mLoads.tellp() > 0 ? ", " : "") << '"' << name << "\": [";
        for (size_t i = 0; i < loads.size(); ++i)
        {
            mLoads << (i > 0 ? ", " : "") << loads[i];
        }
        mLoads << ']';
        if (!done)
        {
            mFailed << (mFailed.tellp() > 0 ? ", " : "") << '"' << name << '"';
        }
    }

    std::string json(int32_t queriesInEnqueue) const
    {
        return "{\"loads\": {" + mLoads.str() + "}, \"failed\": [" + mFailed.str()
            + "], \"queries in enqueue\": " + std::to_string(queriesInEnqueue) + "}";
    }

private:
    std::ostringstream mLoads;
    std::ostringstream mFailed;
};

void walk(IPluginCreatorV3One& creator, Case const& layer, Result& result)
{
    int32_t const inputs = static_cast<int32_t>(layer.inputs.size());
    std::vector<DynamicPluginTensorDesc> const described = describeForBuild(layer);
    std::unique_ptr<IPluginV3> const network = create(creator, layer.name, layer.fields, TensorRTPhase::kBUILD);
    IPluginV3OneBuildV2& build = *capabilitiesOf(*network).build;
    Report report;
    problem = cudaErrorInvalidDevice;
    report.step(
        "build without a GPU", [&] { return build.configurePlugin(described.data(), inputs, &described.back(), 1) == 0; });
    problem = cudaSuccess;
    report.step("build", [&] { return build.configurePlugin(described.data(), inputs, &described.back(), 1) == 0; });
    size_t const workspace = build.getWorkspaceSize(described.data(), inputs, &described.back(), 1);

    std::unique_ptr<IPluginV3> const engine = create(
        creator, layer.name, serialised(*capabilitiesOf(*network).runtime), TensorRTPhase::kRUNTIME);
    std::unique_ptr<IPluginV3> const first(capabilitiesOf(*engine).runtime->attachToContext(nullptr));
    require(first != nullptr, "attachToContext failed");
    IPluginV3OneRuntime& runtime = *capabilitiesOf(*first).runtime;
    Context context(layer, workspace);
    auto const changeShapes = [&] { return context.changeShapes(runtime) == 0; };
    report.step("shapes", changeShapes);
    report.step("same shapes", changeShapes);

    gpu = kOther;
    std::unique_ptr<IPluginV3> clone;
    report.step("clone on another GPU",
        [&]
        {
            clone.reset(first->clone());
            return clone != nullptr;
        });
    report.step("same shapes on another GPU", changeShapes);
    gpu = kTooOld;
    report.step("clone on a GPU that is too old", [&] { return std::unique_ptr<IPluginV3>(first->clone()) != nullptr; });
    report.step("shapes on a GPU that is too old", changeShapes);
    report.step("enqueue after that", [&] { return context.enqueue(runtime) == 0; });
    report.step("any tactic on a GPU that is too old", [&] { return runtime.setTactic(0x10101) == 0; });
    gpu = kOther;
    without = kFirst.compute_capability;
    report.step("no code for the GPU that was planned for", changeShapes);
    without = kOther.compute_capability;
    report.step("no code for the GPU at hand", changeShapes);
    without = 0;
    gpu = kFirst;
    report.step("back", changeShapes);

    queries = 0;
    context.poison();
    require(context.enqueue(runtime) == 0, "enqueue failed");
    result.outputs.push_back({"first GPU", context.finish()});
    require(clone != nullptr, "there is no clone");
    gpu = kOther;
    context.poison();
    require(context.enqueue(*capabilitiesOf(*clone).runtime) == 0, "the clone's enqueue failed");
    result.outputs.push_back({"other GPU", context.finish()});
    result.facts = report.json(queries);
}

} // namespace

Result changeGpus(IPluginCreatorV3One& creator, Case const& layer)
{
    Result result;
    gpu = kFirst;
    problem = cudaSuccess;
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
