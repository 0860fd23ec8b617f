#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(GatedGemm<Half, 128, 128, 3, 2, 2, 2>);

} // namespace lccl
