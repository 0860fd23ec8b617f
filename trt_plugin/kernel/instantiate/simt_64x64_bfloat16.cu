#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(SimtGemm<Bfloat16>);

} // namespace lccl
