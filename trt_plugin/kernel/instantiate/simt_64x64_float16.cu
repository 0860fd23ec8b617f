#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(SimtGemm<Half>);

} // namespace lccl
