// What follows the sums: bias, activation, gate, affine, residual, activation; and the rows that have no sums.
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

//! y of a pixel and a channel. A sum that the gate closes is not looked at: it may be a NaN.
LCCL_DEVICE float finish(Arguments const& a, Channel const& channel, float sum, float gate, float residual)
{
    float const u = leaky(sum + channel.bias, a.activationAlpha);
    float const v = gate > 0.0F ? u * gate : 0.0F;
    return leaky(v * channel.scale + channel.shift + residual, a.postAlpha);
}

//! Eight elements in their 16 bytes.
template <typename T>
LCCL_DEVICE T element(Vec16 const& vector, int32_t index)
{
    uint32_t const word = vector.word[index >> 1];
    return T{static_cast<uint16_t>((index & 1) != 0 ? word >> 16 : word)};
}

template <typename T>
LCCL_DEVICE void setElement(Vec16& vector, int32_t index, float value)
{
    uint32_t const bits = machine::fromFloat<T>(value).bits;
    uint32_t const word = vector.word[index >> 1];
    vector.word[index >> 1] = (index & 1) != 0 ? (word & 0xffffU) | (bits << 16) : (word & 0xffff0000U) | bits;
}

//! Eight channels of a pixel in NHWC with padded channels, 16-bit elements; padding is written as 0.
template <typename T>
LCCL_DEVICE void storeChunk(
    Arguments const& a, int64_t offset, int32_t firstChannel, Channel const (&channels)[8], float const (&sums)[8], float gate)
{
    Vec16 residual{{0, 0, 0, 0}};
    if (a.residual != nullptr)
    {
        residual = machine::loadOwned(reinterpret_cast<Vec16 const*>(static_cast<T const*>(a.residual) + offset));
    }
    Vec16 result{{0, 0, 0, 0}};
    LCCL_UNROLL
    for (int32_t e = 0; e < kChunkElements; ++e)
    {
        float const value = finish(a, channels[e], sums[e], gate, machine::toFloat(element<T>(residual, e)));
        setElement<T>(result, e, firstChannel + e < a.k ? value : 0.0F);
    }
    machine::storeGlobal(reinterpret_cast<Vec16*>(static_cast<T*>(a.y) + offset), result);
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

//! Whether inactive pixels hold their result already: y is the residual, and nothing is done to that.
LCCL_DEVICE bool inactiveIsDone(Arguments const& a)
{
    return a.residual == a.y && a.postAlpha == 1.0F && a.outputChannels == a.k && a.postBiasStep == 0
        && (a.postBias == nullptr || machine::loadConstant(a.postBias) == 0.0F);
}

//! Writes the block's share of the inactive pixels, 16 bytes at a time. The stores need no answer, so they leave while the
//! block goes on to its first tile.
template <typename T>
LCCL_DEVICE void fillInactive(Arguments const& a, Work const& work, int32_t thread, int32_t threads)
{
    if (inactiveIsDone(a))
    {
        return;
    }
    int32_t const chunks = a.outputChannels / kChunkElements;
    int32_t lanes = 1;
    while (lanes < chunks && lanes < kWarpSize)
    {
        lanes *= 2;
    }
    int32_t const rowsAtOnce = threads / lanes;
    float const zeros[8] = {};
    for (int32_t chunk = thread % lanes; chunk < chunks; chunk += lanes)
    {
        Channel channels[8];
        LCCL_UNROLL
        for (int32_t e = 0; e < kChunkElements; ++e)
        {
            channels[e] = loadChannel(a, chunk * kChunkElements + e);
        }
        for (int64_t row = static_cast<int64_t>(machine::blockIndex()) * rowsAtOnce + thread / lanes; row < work.inactiveRows;
             row += static_cast<int64_t>(machine::gridSize()) * rowsAtOnce)
        {
            Pixel const p = inactivePixel(a, static_cast<int32_t>(row));
            if (p.valid)
            {
                int32_t const first = chunk * kChunkElements;
                storeChunk<T>(a, outputOffset(a, p) + first, first, channels, zeros, 0.0F);
            }
        }
    }
}

//! The same, element by element, for any layout.
template <typename T>
LCCL_DEVICE void fillInactiveElements(Arguments const& a, Work const& work, int32_t thread, int32_t threads)
{
    if (inactiveIsDone(a))
    {
        return;
    }
    for (int64_t row = static_cast<int64_t>(machine::blockIndex()) * threads + thread; row < work.inactiveRows;
         row += static_cast<int64_t>(machine::gridSize()) * threads)
    {
        Pixel const p = inactivePixel(a, static_cast<int32_t>(row));
        for (int32_t k = 0; p.valid && k < a.outputChannels; ++k)
        {
            storeElement<T>(a, outputOffset(a, p), k, 0.0F, 0.0F);
        }
    }
}

} // namespace lccl
