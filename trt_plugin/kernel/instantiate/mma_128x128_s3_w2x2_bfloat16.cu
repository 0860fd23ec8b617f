#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GatedGemm<Bfloat16, 128, 128, 3, 2, 2, 2>);

} // namespace lccl
