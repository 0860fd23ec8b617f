// The C interface: chooses an instruction set, checks a call against it, runs its workers.
#include "lccl_cpu.h"

#include "isa.h"
#include "pack.h"
#include "plan.h"

#include "contract/geometry.h"

#include <cstdint>
#include <initializer_list>

namespace lccl_cpu
{

namespace
{

//! The instruction sets of this library, best first.
struct IsaTable
{
    Isa const* list[4] = {};
    int count = 0;

    IsaTable()
    {
        for (Isa const* isa : {kAvx512, kAvx2, kNeon, kPortable})
        {
            if (isa != nullptr)
            {
                list[count++] = isa;
            }
        }
    }

    Isa const* find(int32_t id) const
    {
        for (int i = 0; i < count; ++i)
        {
            if (list[i]->info.id == id && list[i]->runs())
            {
                return list[i];
            }
        }
        return nullptr;
    }
};

IsaTable const& isas()
{
    static IsaTable const kTable;
    return kTable;
}

//! Whether weights of this shape can be packed.
bool isPackable(lccl_cpu_params const& p)
{
    return p.abi == LCCL_CPU_ABI && p.k > 0 && p.c > 0 && lccl::rejectKernelSize(p.r, p.s, kMaxKernel).empty();
}

bool isAligned(void const* p, uintptr_t bytes)
{
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

bool pointersAreValid(lccl_cpu_params const& p)
{
    for (void const* needed :
        {static_cast<void const*>(p.x), p.packed_weight, static_cast<void const*>(p.bias), static_cast<void const*>(p.y)})
    {
        if (needed == nullptr)
        {
            return false;
        }
    }
    struct
    {
        bool isGiven;
        bool isNeeded;
    } const optional[] = {{p.gate_weight != nullptr, p.has_gate_weight != 0}, {p.gate != nullptr, p.has_gate != 0},
        {p.residual != nullptr, p.has_residual != 0}, {p.post_scale != nullptr, p.post_scale_size != 0},
        {p.post_bias != nullptr, p.post_bias_size != 0}};
    for (auto const& tensor : optional)
    {
        if (tensor.isGiven != tensor.isNeeded)
        {
            return false;
        }
    }
    for (float const* tensor : {p.x, p.bias, p.gate_weight, p.gate_bias, p.gate, p.post_scale, p.post_bias, p.residual})
    {
        if (!isAligned(tensor, alignof(float)))
        {
            return false;
        }
    }
    return isAligned(p.packed_weight, 64) && isAligned(p.y, alignof(float)) && isAligned(p.active, alignof(int64_t));
}

} // namespace

} // namespace lccl_cpu

using namespace lccl_cpu;

extern "C"
{
int32_t lccl_cpu_isa_count(void)
{
    return isas().count;
}

lccl_cpu_isa const* lccl_cpu_isa_at(int32_t index)
{
    return index >= 0 && index < isas().count ? &isas().list[index]->info : nullptr;
}

int32_t lccl_cpu_isa_runs(int32_t isa)
{
    return isas().find(isa) != nullptr;
}

int32_t lccl_cpu_choose(void)
{
    for (int i = 0; i < isas().count; ++i)
    {
        if (isas().list[i]->runs())
        {
            return isas().list[i]->info.id;
        }
    }
    return LCCL_CPU_PORTABLE;
}

int32_t lccl_cpu_supported(lccl_cpu_params const* params, int32_t isa, char* reason, size_t reason_size)
{
    Isa const* const found = isas().find(isa);
    lccl_cpu_isa const* const info = found != nullptr ? &found->info : nullptr;
    if (params->abi == LCCL_CPU_ABI && params->h == 0 && params->w == 0)
    {
        return takesForm(*params, info, {reason, reason_size});
    }
    Plan plan;
    return makePlan(*params, info, plan, {reason, reason_size});
}

size_t lccl_cpu_packed_size(lccl_cpu_params const* params, int32_t isa)
{
    Isa const* const found = isas().find(isa);
    return found != nullptr && isPackable(*params) ? packedBytes(*params, found->info) : 0;
}

void lccl_cpu_pack(lccl_cpu_params const* params, int32_t isa, float const* weight, void* packed)
{
    Isa const* const found = isas().find(isa);
    if (found != nullptr && isPackable(*params))
    {
        packWeights(*params, found->info, weight, static_cast<float*>(packed));
    }
}

size_t lccl_cpu_workspace(lccl_cpu_params const* params, int32_t isa)
{
    Isa const* const found = isas().find(isa);
    Plan plan;
    if (found == nullptr || !makePlan(*params, &found->info, plan))
    {
        return 0;
    }
    return plan.scratch.bytes * static_cast<size_t>(plan.workers);
}

int32_t lccl_cpu_run(
    lccl_cpu_params const* params, int32_t isa, void* workspace, size_t workspace_size, lccl_cpu_parallel parallel, void* pool)
{
    Isa const* const found = isas().find(isa);
    Plan plan;
    if (found == nullptr || !makePlan(*params, &found->info, plan))
    {
        return LCCL_CPU_NOT_SUPPORTED;
    }
    if (params->n == 0)
    {
        if (params->active != nullptr)
        {
            *params->active = 0;
        }
        return LCCL_CPU_OK;
    }
    if (!pointersAreValid(*params) || workspace == nullptr || !isAligned(workspace, 64))
    {
        return LCCL_CPU_INVALID_POINTER;
    }
    if (workspace_size < plan.scratch.bytes * static_cast<size_t>(plan.workers))
    {
        return LCCL_CPU_SHORT_WORKSPACE;
    }
    Call call{params, &plan, static_cast<char*>(workspace), 0};
    splitTasks(call.workspace, plan);
    if (parallel == nullptr || plan.workers == 1)
    {
        found->work(&call, 0);
    }
    else
    {
        parallel(pool, static_cast<size_t>(plan.workers), found->work, &call);
    }
    if (params->active != nullptr)
    {
        *params->active = call.active;
    }
    return LCCL_CPU_OK;
}

} // extern "C"
