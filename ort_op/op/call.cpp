// Fills in the parameters of a call of the CPU kernels.
#include "call.h"

namespace lccl::ort
{

lccl_cpu_params makeCall(Attributes const& attributes, Shapes const& shapes, Maps& maps)
{
    lccl_cpu_params call{};
    call.abi = LCCL_CPU_ABI;
    maps = setCall(call, attributes, shapes);
    return call;
}

lccl_cpu_params formOf(Attributes const& attributes, Shapes const& shapes)
{
    auto const known = [&](int32_t input, size_t place)
    {
        Shape const& shape = shapes[static_cast<size_t>(input)];
        return to32Bits(shape.rank < 0 || shape.d[place] < 0 ? 1 : shape.d[place]);
    };
    lccl_cpu_params form{};
    form.abi = LCCL_CPU_ABI;
    form.threads = 1;
    form.k = known(kW, 0);
    form.r = known(kW, 1);
    form.s = known(kW, 2);
    form.c = known(kW, 3);
    form.gate_r = known(kGateW, 1);
    form.gate_s = known(kGateW, 2);
    setAttributes(form, attributes);
    return form;
}

lccl_cpu_params weightsOnly(Shape const& weight)
{
    requireRank4(weight, kW);
    lccl_cpu_params call{};
    call.abi = LCCL_CPU_ABI;
    call.k = to32Bits(weight.d[0]);
    call.r = to32Bits(weight.d[1]);
    call.s = to32Bits(weight.d[2]);
    call.c = to32Bits(weight.d[3]);
    return call;
}

} // namespace lccl::ort
