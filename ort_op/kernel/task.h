// One task: its pixels and channels, and pointers into the worker's scratch.
#pragma once

#include "isa.h"
#include "vector.h"

namespace LCCL_CPU_ISA
{

using lccl_cpu::Call;
using lccl_cpu::GateSource;
using lccl_cpu::Plan;

using lccl_cpu::kGroup;
static_assert(kGroup == 8, "transposition goes by 8 pixels");

struct Task
{
    lccl_cpu_params const& p;
    Plan const& plan;
    char* scratch;

    int64_t firstImage = 0;
    int images = 0;
    int firstRow = 0, rows = 0; //!< of the output
    int firstPanel = 0, endPanel = 0;
    bool follows = false; //!< the scratch holds what the band above left there

    // Scratch; see lccl_cpu::Scratch.
    float* windows = nullptr; //!< x itself where the plan reads it; never written then
    float* compact = nullptr; //!< y itself where rows are computed there
    float* tapMaps = nullptr;
    float* cells = nullptr;
    float* gateWeights = nullptr;
    float* gate = nullptr;
    int32_t* listOffset = nullptr;
    float* listGate = nullptr;
    uint64_t* listTaps = nullptr;
    int32_t* listPixel = nullptr;
    unsigned char* listClass = nullptr;
    char* sorted = nullptr;
    int32_t* rowOf = nullptr;
    unsigned char* open = nullptr;
    unsigned char* needed = nullptr; //!< null: all of the window is
    unsigned char* present = nullptr;
    int32_t* groups = nullptr;
    int32_t* pixelOffset = nullptr;
    uint64_t* columnTaps = nullptr;
    unsigned char* columnClass = nullptr;
    float* vectors = nullptr;
    size_t groupCount = 0;

    int count = 0; //!< of the list
    int32_t compactPitch = 0;
    int64_t pixels = 0; //!< of the task, active or not
    int64_t tapOffset[lccl_cpu::kMaxTaps] = {};

    float* window(int image) const
    {
        return windows + static_cast<int64_t>(image) * plan.imageRows * plan.windowWidth * plan.pitch;
    }

    int64_t bandPixels() const
    {
        return static_cast<int64_t>(rows) * plan.wo;
    }
};

} // namespace LCCL_CPU_ISA
