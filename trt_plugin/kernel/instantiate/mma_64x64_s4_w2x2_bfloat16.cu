#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GatedGemm<Bfloat16, 64, 64, 4, 2, 2, 3>);

} // namespace lccl
