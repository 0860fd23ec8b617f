// The pack kernel: pads the weights' channels to a multiple of 8, so that every tap is aligned to
// 16 bytes.
#pragma once

#include "epilogue.h"

namespace lccl
{

template <typename T>
struct PackKernel
{
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kBlocksPerSm = 4;
    static constexpr int32_t kSharedBytes = 0;

    //! One thread per chunk of eight channels.
    static LCCL_DEVICE void run(Arguments const& a)
    {
        int32_t const chunks = a.k * a.r * a.s * a.channelChunks;
        for (int64_t i = static_cast<int64_t>(machine::blockIndex()) * kThreads + machine::threadIndex(); i < chunks;
            i += static_cast<int64_t>(machine::gridSize()) * kThreads)
        {
            int32_t const tap = a.byChannelChunks.quotient(static_cast<int32_t>(i));
            int32_t const channel = a.byChannelChunks.remainder(static_cast<int32_t>(i), tap) * kChunkElements;
            T const* const weight = static_cast<T const*>(a.weight) + static_cast<int64_t>(tap) * a.c + channel;
            float values[kChunkElements];
            LCCL_UNROLL
            for (int32_t e = 0; e < kChunkElements; ++e)
            {
                values[e] = channel + e < a.c ? machine::toFloat(machine::loadConstant(weight + e)) : 0.0F;
            }
            machine::storeGlobal(
                reinterpret_cast<Vec16*>(static_cast<T*>(a.packedWeight) + i * kChunkElements), packEight<T>(values));
        }
    }
};

} // namespace lccl
