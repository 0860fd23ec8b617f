// Writes computed rows to y, in its order of channels: closed pixels filled, the residual added.
#pragma once

#include "task.h"

namespace LCCL_CPU_ISA
{

//! 8 channels of 8 pixels of a plane.
struct Block
{
    float const* rows;     //!< of the channels
    int32_t const* rowOf;  //!< [8]
    float* y;              //!< of the first channel and pixel
    float const* residual; //!< as y; null: none
    int64_t plane;
    float alpha; //!< after the residual
};

LCCL_INLINE SquareRow withResidual(SquareRow v, float const* residual, float alpha)
{
    return leakyRow(v + loadRow(residual), broadcastRow(alpha));
}

LCCL_INLINE void writeTransposed(Block const& b)
{
    for (int c = 0; c < 8; c += kSquare)
    {
        for (int j = 0; j < 8; j += kSquare)
        {
            SquareRow r[kSquare];
            loadTransposed(r, [&](int i) { return b.rows + b.rowOf[j + i] + c; });
#pragma GCC unroll 8
            for (int i = 0; i < kSquare; ++i)
            {
                int64_t const at = (c + i) * b.plane + j;
                storeRow(b.y + at, b.residual != nullptr ? withResidual(r[i], b.residual + at, b.alpha) : r[i]);
            }
        }
    }
}

//! \param closed [8]: y of a closed pixel, before the residual
LCCL_INLINE void writeClosed(Block const& b, float const* closed)
{
    for (int c = 0; c < 8; ++c)
    {
        SquareRow const v = broadcastRow(closed[c]);
        for (int j = 0; j < 8; j += kSquare)
        {
            int64_t const at = c * b.plane + j;
            storeRow(b.y + at, b.residual != nullptr ? withResidual(v, b.residual + at, b.alpha) : v);
        }
    }
}

//! The same for fewer than 8 pixels or channels.
static void writeSmall(Block const& b, int64_t pixels, int channels)
{
    for (int c = 0; c < channels; ++c)
    {
        for (int64_t q = 0; q < pixels; ++q)
        {
            int64_t const at = c * b.plane + q;
            float const v = b.rows[b.rowOf[q] + c];
            b.y[at] = b.residual != nullptr ? leaky(v + b.residual[at], b.alpha) : v;
        }
    }
}

//! Whether any pixel of each 8 is computed; the last 8 overlap those before where 8 does not divide
//! the band.
static void findOpen(Task const& t, int32_t const* rowOf, int64_t pixels)
{
    int32_t const closed = t.count * t.compactPitch;
    for (int64_t g = 0; g * 8 < pixels; ++g)
    {
        int64_t const first = g * 8 + 8 <= pixels ? g * 8 : pixels - 8;
        int open = 0;
        for (int j = 0; j < 8; ++j)
        {
            open |= rowOf[first + j] ^ closed;
        }
        t.open[g] = open != 0;
    }
}

//! Pixels of y with channels innermost: where the first one is in y and the residual, and how far
//! apart they are.
struct PixelBand
{
    float const* rows;
    int32_t const* rowOf; //!< [pixels]
    int64_t pixels;
    float* y;
    float const* residual; //!< as y; null: none
    int64_t pitch;
    float alpha; //!< after the residual
};

//! Writes `kVectors` vectors of channels of each pixel.
template <int kVectors, bool kResidual>
static void writeVectors(PixelBand const& b)
{
    Vector const alpha = broadcast(b.alpha);
    for (int64_t q = 0; q < b.pixels; ++q)
    {
        float const* const row = b.rows + b.rowOf[q];
        int64_t const at = q * b.pitch;
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i)
        {
            Vector const v = load(row + i * kLanes);
            store(b.y + at + i * kLanes, kResidual ? leaky(v + load(b.residual + at + i * kLanes), alpha) : v);
        }
    }
}

//! The same for fewer channels than a vector has.
static void writeFew(PixelBand const& b, int channels)
{
    for (int64_t q = 0; q < b.pixels; ++q)
    {
        float const* const row = b.rows + b.rowOf[q];
        for (int c = 0; c < channels; ++c)
        {
            int64_t const at = q * b.pitch + c;
            b.y[at] = b.residual != nullptr ? leaky(row[c] + b.residual[at], b.alpha) : row[c];
        }
    }
}

template <bool kResidual>
static void writePixels(PixelBand b, int channels)
{
    while (channels > 0)
    {
        int const vectors = channels / kLanes < 8 ? channels / kLanes : 8;
        switch (vectors)
        {
        case 0: return writeFew(b, channels);
        case 1: writeVectors<1, kResidual>(b); break;
        case 2: writeVectors<2, kResidual>(b); break;
        case 3: writeVectors<3, kResidual>(b); break;
        case 4: writeVectors<4, kResidual>(b); break;
        case 5: writeVectors<5, kResidual>(b); break;
        case 6: writeVectors<6, kResidual>(b); break;
        case 7: writeVectors<7, kResidual>(b); break;
        default: writeVectors<8, kResidual>(b);
        }
        int const written = vectors * kLanes;
        b.rows += written;
        b.y += written;
        b.residual = kResidual ? b.residual + written : nullptr;
        channels -= written;
    }
}

//! An image's band, for the task's channels.
static void writeOutput(Task const& t, int image)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    int const firstChannel = t.firstPanel * plan.tileColumns;
    int const lastChannel = t.endPanel * plan.tileColumns < p.k ? t.endPanel * plan.tileColumns : p.k;
    int const channels = lastChannel - firstChannel;
    int64_t const plane = static_cast<int64_t>(plan.ho) * plan.wo;
    int64_t const pixels = t.bandPixels();
    int32_t const* const rowOf = t.rowOf + image * pixels;
    if (p.y_channels_last != 0)
    {
        int64_t const first = ((t.firstImage + image) * plane + static_cast<int64_t>(t.firstRow) * plan.wo) * p.k
            + firstChannel;
        PixelBand const pixelBand{
            t.compact, rowOf, pixels, p.y + first, p.residual != nullptr ? p.residual + first : nullptr, p.k, p.post_alpha};
        p.residual != nullptr ? writePixels<true>(pixelBand, channels) : writePixels<false>(pixelBand, channels);
        return;
    }
    int64_t const at = ((t.firstImage + image) * p.k + firstChannel) * plane + static_cast<int64_t>(t.firstRow) * plan.wo;
    Block band{t.compact, rowOf, p.y + at, p.residual != nullptr ? p.residual + at : nullptr, plane, p.post_alpha};
    if (pixels < 8 || channels < 8)
    {
        return writeSmall(band, pixels, channels);
    }
    findOpen(t, rowOf, pixels);
    float const* const closed = t.compact + static_cast<int64_t>(t.count) * t.compactPitch;
    for (int k = 0; k < channels; k += 8)
    {
        int const channel = k + 8 <= channels ? k : channels - 8; // the last 8 overlap those before
        Block block = band;
        block.rows += channel;
        block.y += channel * plane;
        block.residual = band.residual != nullptr ? band.residual + channel * plane : nullptr;
        float* const y = block.y;
        float const* const residual = block.residual;
        for (int64_t g = 0; g * 8 < pixels; ++g)
        {
            int64_t const first = g * 8 + 8 <= pixels ? g * 8 : pixels - 8;
            block.y = y + first;
            block.residual = residual != nullptr ? residual + first : nullptr;
            block.rowOf = rowOf + first;
            if (t.open[g])
            {
                writeTransposed(block);
            }
            else
            {
                writeClosed(block, closed + channel);
            }
        }
    }
}

} // namespace LCCL_CPU_ISA
