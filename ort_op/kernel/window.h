// Copies the part of x that open pixels read into the window: channels innermost, with the padding
// around it.
#pragma once

#include "task.h"

namespace LCCL_CPU_ISA
{

//! The first row of x in the window of a band; negative above the image.
LCCL_INLINE int windowTop(Task const& t, int outputRow)
{
    return t.plan.readsX ? 0 : outputRow * t.p.strides[0] - t.plan.top;
}

//! Rows of x, from the first to before the end.
struct InputRows
{
    int first, end;
};

//! The rows of a window that are in the image.
LCCL_INLINE InputRows rowsOfWindow(Task const& t, int top)
{
    int const bottom = top + t.plan.windowRows;
    return {top < 0 ? 0 : top, bottom > t.p.h ? t.p.h : bottom};
}

//! Moves the rows that this band's window shares with the last one to their place, and writes the
//! padding.
static void startWindow(Task& t, int image)
{
    Plan const& plan = t.plan;
    float* const window = t.window(image);
    size_t const row = static_cast<size_t>(plan.windowWidth) * plan.pitch;
    int const top = windowTop(t, t.firstRow);
    int kept = 0;
    if (t.follows)
    {
        int const moved = top - windowTop(t, t.firstRow - plan.bandRows);
        kept = plan.windowRows > moved ? plan.windowRows - moved : 0;
        memmove(window, window + moved * row, kept * row * sizeof(float));
    }
    else
    {
        memset(t.present, 0, t.groupCount);
    }
    int const left = t.p.pads[1], right = plan.windowWidth - left - t.p.w;
    for (int i = kept; i < plan.windowRows; ++i)
    {
        float* const r = window + i * row;
        if (top + i < 0 || top + i >= t.p.h)
        {
            memset(r, 0, row * sizeof(float));
            continue;
        }
        memset(r, 0, static_cast<size_t>(left) * plan.pitch * sizeof(float));
        memset(r + row - static_cast<size_t>(right) * plan.pitch, 0, static_cast<size_t>(right) * plan.pitch * sizeof(float));
    }
}

//! Copies 8 pixels of 8 channels, `plane` floats apart, to the places that `offset` gives.
LCCL_INLINE void transposeIn(float const* x, int64_t plane, float* window, int32_t const* offset)
{
    for (int c = 0; c < 8; c += kSquare)
    {
        for (int j = 0; j < 8; j += kSquare)
        {
            SquareRow r[kSquare];
            loadTransposed(r, [&](int i) { return x + (c + i) * plane + j; });
#pragma GCC unroll 8
            for (int i = 0; i < kSquare; ++i)
            {
                storeRow(window + offset[j + i] + c, r[i]);
            }
        }
    }
}

LCCL_INLINE void copyPixels(Task const& t, float const* x, float* window, int64_t begin, int64_t end, int64_t firstPixel)
{
    int64_t const plane = static_cast<int64_t>(t.p.h) * t.p.w;
    for (int64_t q = begin; q < end; ++q)
    {
        float* const to = window + t.pixelOffset[q - firstPixel];
        for (int c = 0; c < t.p.c; ++c)
        {
            to[c] = x[c * plane + q];
        }
    }
}

//! Copies whole pixels of a row of x, whose channels lie together, to consecutive places of the window.
LCCL_INLINE void copyRow(Task const& t, float const* x, float* window, int64_t pixels)
{
    int const channels = t.p.c, pitch = t.plan.pitch;
    if (channels == pitch)
    {
        memcpy(window, x, static_cast<size_t>(pixels * channels) * sizeof(float));
        return;
    }
    for (int64_t q = 0; q < pixels; ++q)
    {
        memcpy(window + q * pitch, x + q * channels, static_cast<size_t>(channels) * sizeof(float));
    }
}

//! The same as fillWindow, of x with its channels innermost.
static void fillFromPixels(Task& t, int image, bool all)
{
    Plan const& plan = t.plan;
    lccl_cpu_params const& p = t.p;
    int const top = windowTop(t, t.firstRow);
    InputRows const rows = rowsOfWindow(t, top);
    if (rows.first >= rows.end)
    {
        return;
    }
    int64_t const plane = static_cast<int64_t>(p.h) * p.w;
    int64_t const begin = static_cast<int64_t>(rows.first) * p.w, end = static_cast<int64_t>(rows.end) * p.w;
    float const* const x = p.x + (t.firstImage + image) * p.c * plane;
    float* const window = t.window(image);
    for (int64_t g = begin / kGroup; g * kGroup < end;)
    {
        if (!(all || t.needed[g]) || t.present[g])
        {
            ++g;
            continue;
        }
        int64_t const first = g * kGroup;
        for (; g * kGroup < end && (all || t.needed[g]) && !t.present[g]; ++g)
        {
            t.present[g] = g * kGroup >= begin && (g * kGroup + kGroup <= end || end == plane);
        }
        int64_t const last = g * kGroup < end ? g * kGroup : end;
        for (int64_t q = first < begin ? begin : first; q < last;)
        {
            int64_t const row = q / p.w, column = q - row * p.w;
            int64_t const count = last - q < p.w - column ? last - q : p.w - column;
            copyRow(t, x + q * p.c, window + ((row - top) * plan.windowWidth + p.pads[1] + column) * plan.pitch, count);
            q += count;
        }
    }
}

//! Copies the groups that are needed and not yet there, or all groups.
static void fillWindow(Task& t, int image, bool all)
{
    if (t.p.x_channels_last != 0)
    {
        return fillFromPixels(t, image, all);
    }
    Plan const& plan = t.plan;
    lccl_cpu_params const& p = t.p;
    int const top = windowTop(t, t.firstRow);
    InputRows const rows = rowsOfWindow(t, top);
    if (rows.first >= rows.end)
    {
        return;
    }
    int64_t const begin = static_cast<int64_t>(rows.first) * p.w, end = static_cast<int64_t>(rows.end) * p.w;
    int64_t const plane = static_cast<int64_t>(p.h) * p.w;
    for (int y = rows.first; y < rows.end; ++y)
    {
        int32_t at = static_cast<int32_t>(((y - top) * static_cast<int64_t>(plan.windowWidth) + p.pads[1]) * plan.pitch);
        int32_t* const offset = t.pixelOffset + (static_cast<int64_t>(y) * p.w - begin);
        for (int x = 0; x < p.w; ++x, at += plan.pitch)
        {
            offset[x] = at;
        }
    }
    float const* const x = p.x + (t.firstImage + image) * p.c * plane;
    float* const window = t.window(image);
    int count = 0;
    for (int64_t g = begin / kGroup; g * kGroup < end; ++g)
    {
        if (!(all || t.needed[g]) || t.present[g])
        {
            continue;
        }
        int64_t first = g * kGroup, last = first + kGroup;
        t.present[g] = first >= begin && (last <= end || end == plane);
        if (last > plane)
        {
            first = plane - kGroup; // the last group overlaps the one before
            last = plane;
        }
        if (first < begin || last > end || p.c < 8)
        {
            copyPixels(t, x, window, first < begin ? begin : first, last > end ? end : last, begin);
            continue;
        }
        t.groups[count++] = static_cast<int32_t>(first);
    }
    // 16 channels of two groups, so that whole cache lines are read and written before the next.
    int c = 0;
    for (; c + 16 <= p.c; c += 16)
    {
        for (int i = 0; i < count; i += 2)
        {
            for (int half = c; half < c + 16; half += 8)
            {
                for (int j = i; j < i + 2 && j < count; ++j)
                {
                    int64_t const first = t.groups[j];
                    transposeIn(x + half * plane + first, plane, window + half, t.pixelOffset + (first - begin));
                }
            }
        }
    }
    for (; c < p.c && count > 0; c += 8)
    {
        int const channel = c + 8 <= p.c ? c : p.c - 8; // the last 8 overlap those before
        for (int i = 0; i < count; ++i)
        {
            int64_t const first = t.groups[i];
            transposeIn(x + channel * plane + first, plane, window + channel, t.pixelOffset + (first - begin));
        }
    }
}

} // namespace LCCL_CPU_ISA
