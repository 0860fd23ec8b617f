#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GateKernel<float>);

} // namespace lccl
