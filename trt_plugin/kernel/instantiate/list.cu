#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(ListKernel);

} // namespace lccl
