#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(PackKernel<Half>);

} // namespace lccl
