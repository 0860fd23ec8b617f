// Sizes of tensors as the kernels hold them, in 32 bits.
#include "call.h"

#include <climits>
#include <stdexcept>

namespace lccl
{

int32_t to32Bits(int64_t size)
{
    if (size < 0 || size > INT_MAX)
    {
        throw std::invalid_argument("a dimension of " + std::to_string(size) + " is more than the kernels' 32-bit sizes hold");
    }
    return static_cast<int32_t>(size);
}

} // namespace lccl
