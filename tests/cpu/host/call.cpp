// Runs one call of the CPU kernels, whole or with a planted fault.
#include "call.h"

#include "memory.h"
#include "pool.h"

#include <cstring>
#include <map>
#include <memory>
#include <thread>

namespace host
{
namespace
{

using Parallel = std::pair<lccl_cpu_parallel, void*>;

constexpr size_t kFloat = sizeof(float);
constexpr size_t kLine = 64;

//! The memory of one slot, with the run's fault in it.
class Block
{
public:
    Block(Run const& run, int32_t slot, size_t bytes)
        : mIsNull(is(run, slot, kNull))
        , mShort(is(run, slot, kShort) && bytes >= kFloat)
        , mOff(is(run, slot, kMisaligned) ? kFloat : 0)
        , mBefore(mShort && run.placement == kStartsAtGuard)
        , memory(bytes - (mShort ? kFloat : 0) + mOff, slot == kPacked || slot == kWorkspace ? kLine : kFloat, run.placement)
    {
    }

    void* data() const
    {
        auto const begin = reinterpret_cast<uintptr_t>(memory.data());
        return mIsNull ? nullptr : reinterpret_cast<void*>(begin + mOff - (mBefore ? kFloat : 0));
    }

    float* floats() const
    {
        return static_cast<float*>(data());
    }

    void set(std::vector<float> const& values)
    {
        size_t const missing = mShort ? 1 : 0;
        size_t const count = (values.size() - missing) * kFloat;
        if (count > 0)
        {
            std::memcpy(memory.data(), values.data() + (mBefore ? 1 : 0), count);
        }
        memory.protect();
    }

private:
    static bool is(Run const& run, int32_t slot, Fault fault)
    {
        return run.slot == slot && run.fault == fault;
    }

    bool mIsNull;
    bool mShort;
    size_t mOff;
    bool mBefore;

public:
    Memory memory;
};

//! What one caller has for itself.
struct Caller
{
    Caller(Run const& run, int64_t outputs, size_t workspaceBytes)
        : y(run, kY, static_cast<size_t>(outputs) * kFloat)
        , workspace(run, kWorkspace, workspaceBytes)
    {
        y.memory.fill(kPoison);
        // NaN, then numbers with which an index would be lost: the next run finds something else.
        static uint32_t turn = 0;
        workspace.memory.fill(++turn % 2 == 0 ? 0x7fffffffU : 0x5bd1e995U * turn);
    }

    Block y;
    Block workspace;
    int64_t active{kNoCount};
    int32_t status{-1};
};

//! The pool of the caller with that number, kept for the next case.
Parallel parallelOf(Run const& run, size_t caller)
{
    static std::map<std::pair<int32_t, size_t>, std::unique_ptr<Pool>> pools;
    if (run.threads <= 0)
    {
        return {run.threads < 0 ? backwards : nullptr, nullptr};
    }
    std::unique_ptr<Pool>& pool = pools[{run.threads, caller}];
    if (pool == nullptr)
    {
        pool = std::make_unique<Pool>(static_cast<size_t>(run.threads));
    }
    pool->twice = run.fault == kTwice;
    return {Pool::parallel, pool.get()};
}

lccl_cpu_params paramsOf(Case const& layer, Run const& run, std::unique_ptr<Block> const* inputs)
{
    lccl_cpu_params params = layer.params;
    params.density = run.density;
    params.threads = run.threads > 0 ? run.threads : run.threads < 0 ? -run.threads : params.threads;
    params.bias = inputs[kBias]->floats();
    params.gate_weight = inputs[kGateWeight]->floats();
    params.gate_bias = inputs[kGateBias]->floats();
    params.gate = inputs[kGate]->floats();
    params.post_scale = inputs[kPostScale]->floats();
    params.post_bias = inputs[kPostBias]->floats();
    params.residual = inputs[kResidual]->floats();
    params.x = inputs[kX]->floats();
    return params;
}

void runAll(lccl_cpu_params const& params, Run const& run, std::vector<std::unique_ptr<Caller>>& callers, size_t workspaceBytes)
{
    auto const one = [&](Caller& caller, Parallel const& parallel)
    {
        lccl_cpu_params own = params;
        own.y = caller.y.floats();
        own.active = run.fault == kNull && run.slot == kActive ? nullptr : &caller.active;
        caller.status = lccl_cpu_run(&own, run.isa, caller.workspace.data(), workspaceBytes - (run.fault == kShortWorkspace),
            parallel.first, parallel.second);
    };
    std::vector<std::thread> others;
    for (size_t i = 1; i < callers.size(); ++i)
    {
        others.emplace_back(one, std::ref(*callers[i]), parallelOf(run, i));
    }
    one(*callers[0], parallelOf(run, 0));
    for (std::thread& other : others)
    {
        other.join();
    }
}

void collect(Result& result, Case const& layer, std::vector<std::unique_ptr<Caller>> const& callers)
{
    Caller const& first = *callers[0];
    size_t const bytes = static_cast<size_t>(layer.outputs) * kFloat;
    result.status = first.status;
    result.active = first.active;
    result.callersAgree = 1;
    result.intact = 1;
    for (std::unique_ptr<Caller> const& caller : callers)
    {
        result.intact &= caller->y.memory.intact() && caller->workspace.memory.intact() ? 1 : 0;
        bool const same = caller->status == first.status && caller->active == first.active
            && (bytes == 0 || std::memcmp(caller->y.memory.data(), first.y.memory.data(), bytes) == 0);
        result.callersAgree &= same ? 1 : 0;
    }
    result.y.resize(static_cast<size_t>(layer.outputs));
    if (bytes > 0)
    {
        std::memcpy(result.y.data(), first.y.memory.data(), bytes);
    }
}

} // namespace

Result call(Case const& layer, Run const& run)
{
    std::unique_ptr<Block> inputs[kInputs];
    for (int32_t slot = 0; slot < kInputs; ++slot)
    {
        Run own = run;
        if (!layer.given[slot])
        {
            own.fault = kNull;
            own.slot = slot;
        }
        inputs[slot] = std::make_unique<Block>(own, slot, layer.inputs[slot].size() * kFloat);
        inputs[slot]->set(layer.inputs[slot]);
    }
    lccl_cpu_params params = paramsOf(layer, run, inputs);

    Result result{};
    char reason[512] = "";
    result.supported = lccl_cpu_supported(&params, run.isa, reason, sizeof(reason));
    result.reason = reason;
    result.workspaceBytes = static_cast<int64_t>(lccl_cpu_workspace(&params, run.isa));
    if (result.supported != 0)
    {
        result.packedBytes = static_cast<int64_t>(lccl_cpu_packed_size(&params, run.isa));
    }
    Block packed(run, kPacked, static_cast<size_t>(result.packedBytes));
    if (result.supported != 0 && packed.data() != nullptr)
    {
        Block aligned(Run{}, kPacked, static_cast<size_t>(result.packedBytes)); // lccl_cpu_pack cannot refuse
        bool const misaligned = run.fault == kMisaligned && run.slot == kPacked;
        Block const& target = misaligned ? aligned : packed;
        lccl_cpu_pack(&params, run.isa, inputs[kWeight]->floats(), target.data());
        result.intact = target.memory.intact() ? 1 : 0;
        packed.memory.protect();
    }
    params.packed_weight = packed.data();

    std::vector<std::unique_ptr<Caller>> callers;
    for (int32_t i = 0; i < run.callers; ++i)
    {
        callers.push_back(std::make_unique<Caller>(run, layer.outputs, static_cast<size_t>(result.workspaceBytes)));
    }
    bool const packedIntact = result.supported == 0 || packed.data() == nullptr || result.intact != 0;
    runAll(params, run, callers, static_cast<size_t>(result.workspaceBytes));
    collect(result, layer, callers);
    result.intact &= packedIntact ? 1 : 0;
    return result;
}

} // namespace host
