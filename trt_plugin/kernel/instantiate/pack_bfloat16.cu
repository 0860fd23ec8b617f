#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(PackKernel<Bfloat16>);

} // namespace lccl
