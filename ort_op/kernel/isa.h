// The interface of an instruction set's file to the rest of the library: its row of the table, and
// its code.
#pragma once

#include "lccl_cpu.h"
#include "plan.h"
#include "work_stealing.h"

namespace lccl_cpu
{

//! One call, shared by its workers.
struct Call
{
    lccl_cpu_params const* params;
    Plan const* plan;
    char* workspace;
    int64_t active; //!< pixels, counted by the tasks of the first channels
};

struct Isa
{
    lccl_cpu_isa info;
    bool (*runs)();
    void (*work)(void* call, size_t worker); //!< takes tasks until there are none
};

// Null where the library is compiled for another kind of machine.
extern Isa const* const kPortable;
extern Isa const* const kNeon;
extern Isa const* const kAvx2;
extern Isa const* const kAvx512;

} // namespace lccl_cpu
