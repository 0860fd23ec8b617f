#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GateKernel<Half>);

} // namespace lccl
