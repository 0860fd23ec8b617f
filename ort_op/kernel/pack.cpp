// Packs weights as the micro-kernel reads them: [panel][tap][c][columns of the panel], channels
// past k as 0.
#include "pack.h"

#include <algorithm>
#include <cstring>

namespace lccl_cpu
{

size_t packedBytes(lccl_cpu_params const& params, lccl_cpu_isa const& isa)
{
    size_t const lanes = static_cast<size_t>(isa.vector_bytes) / 4;
    size_t const columns = (static_cast<size_t>(params.k) + lanes - 1) / lanes * lanes;
    return columns * static_cast<size_t>(params.r) * static_cast<size_t>(params.s) * static_cast<size_t>(params.c)
        * sizeof(float);
}

void packWeights(lccl_cpu_params const& params, lccl_cpu_isa const& isa, float const* weight, float* packed)
{
    int const lanes = isa.vector_bytes / 4;
    int const columns = (params.k + lanes - 1) / lanes * lanes;
    int64_t const depth = int64_t{params.r} * params.s * params.c;
    for (int first = 0; first < columns; first += isa.tile_columns)
    {
        int const width = std::min(isa.tile_columns, columns - first);
        float* const panel = packed + first * depth;
        for (int64_t d = 0; d < depth; ++d)
        {
            for (int j = 0; j < width; ++j)
            {
                panel[d * width + j] = first + j < params.k ? weight[(first + j) * depth + d] : 0.0F;
            }
        }
    }
}

} // namespace lccl_cpu
