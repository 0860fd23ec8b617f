#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GateKernel<Bfloat16>);

} // namespace lccl
