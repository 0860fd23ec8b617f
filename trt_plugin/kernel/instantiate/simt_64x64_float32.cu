#include "instantiations.h"

namespace lccl
{

LCCL_DEFINE_KERNEL(SimtGemm<float>);

} // namespace lccl
