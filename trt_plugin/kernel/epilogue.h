// The epilogue of a sum: bias, activation, gate, affine, residual, activation.
#pragma once

#include "rows.h"

namespace lccl
{

//! x if x > 0 else alpha * x.
LCCL_DEVICE float leaky(float x, float alpha)
{
    return x > 0.0F ? x : alpha * x;
}

//! Constants of one output channel.
struct Channel
{
    float bias;
    float scale;
    float shift;
};

LCCL_DEVICE Channel loadChannel(Arguments const& a, int32_t k)
{
    Channel channel{0.0F, 1.0F, 0.0F};
    if (k < a.k)
    {
        channel.bias = machine::loadConstant(a.bias + k);
        channel.scale = a.postScale == nullptr ? 1.0F : machine::loadConstant(a.postScale + k * a.postScaleStep);
        channel.shift = a.postBias == nullptr ? 0.0F : machine::loadConstant(a.postBias + k * a.postBiasStep);
    }
    return channel;
}

//! y of a pixel and a channel. The sum of a closed pixel is ignored: it may be a NaN.
LCCL_DEVICE float finish(Arguments const& a, Channel const& channel, float sum, float gate, float residual)
{
    float const u = leaky(sum + channel.bias, a.activationAlpha);
    float const v = gate > 0.0F ? u * gate : 0.0F;
    return leaky(v * channel.scale + channel.shift + residual, a.postAlpha);
}

//! y of an inactive pixel before the residual and the last activation.
LCCL_DEVICE float closedValue(Channel const& channel)
{
    return 0.0F * channel.scale + channel.shift;
}

//! An element of eight in their 16 bytes.
template <typename T>
LCCL_DEVICE T element(Vec16 const& vector, int32_t index)
{
    uint32_t const word = vector.word[index >> 1];
    return T{static_cast<uint16_t>((index & 1) != 0 ? word >> 16 : word)};
}

//! Eight values in their 16 bytes.
template <typename T>
LCCL_DEVICE Vec16 packEight(float const (&values)[8])
{
    Vec16 packed;
    LCCL_UNROLL
    for (int32_t i = 0; i < 4; ++i)
    {
        packed.word[i] = machine::packPair<T>(values[2 * i], values[2 * i + 1]);
    }
    return packed;
}

//! Eight channels of a pixel in NHWC with padded channels, 16-bit elements; padding is written as
//! 0.
template <typename T>
LCCL_DEVICE void storeChunk(
    Arguments const& a, int64_t offset, int32_t firstChannel, Channel const (&channels)[8], float const (&sums)[8], float gate)
{
    Vec16 residual{{0, 0, 0, 0}};
    if (a.residual != nullptr)
    {
        residual = machine::loadOwned(reinterpret_cast<Vec16 const*>(static_cast<T const*>(a.residual) + offset));
    }
    float values[kChunkElements];
    LCCL_UNROLL
    for (int32_t e = 0; e < kChunkElements; ++e)
    {
        float const value = finish(a, channels[e], sums[e], gate, machine::toFloat(element<T>(residual, e)));
        values[e] = firstChannel + e < a.k ? value : 0.0F;
    }
    machine::storeGlobal(reinterpret_cast<Vec16*>(static_cast<T*>(a.y) + offset), packEight<T>(values));
}

//! One channel of a pixel, any layout; a channel of the padding is written as 0.
template <typename T>
LCCL_DEVICE void storeElement(Arguments const& a, int64_t pixelOffset, int32_t k, float sum, float gate)
{
    int64_t const offset = pixelOffset + k * a.yStrides.channel;
    float value = 0.0F;
    if (k < a.k)
    {
        float residual = 0.0F;
        if (a.residual != nullptr)
        {
            residual = machine::toFloat(machine::loadOwned(static_cast<T const*>(a.residual) + offset));
        }
        value = finish(a, loadChannel(a, k), sum, gate, residual);
    }
    machine::storeGlobal(static_cast<T*>(a.y) + offset, machine::fromFloat<T>(value));
}

} // namespace lccl
