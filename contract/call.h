// Turns attributes and shapes into a call of the kernels; the CPU's and the GPU's parameters name
// their members alike.
#pragma once

#include "shapes.h"

namespace lccl
{

//! A size in 32 bits, as the kernels hold it.
//! \throw std::invalid_argument if it is negative or has more than 32 bits
int32_t to32Bits(int64_t size);

//! Sets the parameters that follow from the attributes alone.
template <typename Params>
void setAttributes(Params& call, Attributes const& a)
{
    for (int32_t i = 0; i < 2; ++i)
    {
        call.strides[i] = a.strides[i];
        call.dilations[i] = a.dilations[i];
        call.gate_strides[i] = a.gate_strides[i];
        call.gate_dilations[i] = a.gate_dilations[i];
    }
    for (int32_t i = 0; i < 4; ++i)
    {
        call.pads[i] = a.pads[i];
        call.gate_pads[i] = a.gate_pads[i];
    }
    call.grid = a.grid();
    call.activation_alpha = *a.activation_alpha;
    call.gate_slope = *a.gate_slope;
    call.gate_max = *a.gate_max;
    call.gate_threshold = *a.gate_threshold;
    call.post_alpha = *a.post_alpha;
    call.density = *a.density;
    call.has_gate_weight = a.external() ? 0 : 1;
}

//! Sets the parameters that follow from attributes and shapes: sizes, and whether gate_W, the gate
//! map and the residual are real or neutral. All sizes must be known.
//! \throw std::invalid_argument for shapes that the op does not allow
template <typename Params>
Maps setCall(Params& call, Attributes const& attributes, Shapes const& shapes)
{
    Maps const maps = checkShapes(attributes, shapes);
    setAttributes(call, attributes);
    call.n = to32Bits(shapes[kX].d[0]);
    call.c = to32Bits(shapes[kX].d[1]);
    call.h = to32Bits(shapes[kX].d[2]);
    call.w = to32Bits(shapes[kX].d[3]);
    call.k = to32Bits(shapes[kW].d[0]);
    call.r = to32Bits(shapes[kW].d[1]);
    call.s = to32Bits(shapes[kW].d[2]);
    call.gate_r = to32Bits(shapes[kGateW].d[1]);
    call.gate_s = to32Bits(shapes[kGateW].d[2]);
    call.post_scale_size = to32Bits(shapes[kPostScale].d[0]);
    call.post_bias_size = to32Bits(shapes[kPostBias].d[0]);
    call.has_gate = agrees(shapes[kGate], {call.n, 1, maps.hg, maps.wg}) ? 1 : 0;
    call.has_residual = agrees(shapes[kResidual], {call.n, call.k, maps.ho, maps.wo}) ? 1 : 0;
    return maps;
}

} // namespace lccl
