// Lists the pixels whose gate is open, each with the taps that fall inside and the class of its
// missing ones.
#pragma once

#include "window.h"

namespace LCCL_CPU_ISA
{

constexpr int kClasses = 16;

//! Where a class of pixels stands in the list: around the border, so that neighbours lack nearly
//! the same taps, then the inside. A class is 4 * (rows missing above: 1, below: 2) + the same of
//! columns.
// clang-format off
constexpr unsigned char kClassOrder[kClasses] = {
    8, 7, 3, 9,
    1, 0, 2, 10,
    5, 6, 4, 11,
    12, 13, 14, 15};
// clang-format on

//! Which of `taps` taps in a row fall inside, as bits, from a first tap at `at`.
LCCL_INLINE uint64_t insideTaps(int at, int taps, int dilation, int size)
{
    uint64_t bits = 0;
    for (int i = 0; i < taps; ++i)
    {
        int const place = at + i * dilation;
        bits |= static_cast<uint64_t>(place >= 0 && place < size) << i;
    }
    return bits;
}

//! 1 if the first of the taps is missing, 2 if the last is, 3 if both are.
LCCL_INLINE int borderClass(uint64_t inside, int taps)
{
    return static_cast<int>(!(inside & 1)) | static_cast<int>(!(inside >> (taps - 1) & 1)) << 1;
}

//! Fills in the taps and the class of each output column, which are the same for all bands.
static void prepareColumns(Task& t)
{
    lccl_cpu_params const& p = t.p;
    for (int x = 0; x < t.plan.wo; ++x)
    {
        uint64_t const inside = insideTaps(x * p.strides[1] - p.pads[1], p.s, p.dilations[1], p.w);
        uint64_t taps = 0;
        for (int i = 0; i < p.r; ++i)
        {
            taps |= inside << (i * p.s);
        }
        t.columnTaps[x] = taps;
        t.columnClass[x] = static_cast<unsigned char>(borderClass(inside, p.s));
    }
}

//! The places of the set bits of each byte, in ascending order.
struct SetBits
{
    unsigned char places[256][8];

    constexpr SetBits()
        : places{}
    {
        for (int bits = 0; bits < 256; ++bits)
        {
            int count = 0;
            for (int i = 0; i < 8; ++i)
            {
                if (bits >> i & 1)
                {
                    places[bits][count++] = static_cast<unsigned char>(i);
                }
            }
        }
    }
};

static constexpr SetBits kSetBits;

//! Lists the columns of a row that are to be computed, without a branch on a gate, since branches
//! on random gates are mispredicted. Writes up to 7 values past the end of the list.
LCCL_INLINE int listColumns(float const* g, int width, bool all, int32_t* columns)
{
    int count = 0, x = 0;
    for (; x + 8 <= width; x += 8)
    {
        unsigned const open = all ? 255U : positiveOf8(g + x);
        unsigned char const* const places = kSetBits.places[open];
        for (int i = 0; i < 8; ++i)
        {
            columns[count + i] = x + places[i];
        }
        count += __builtin_popcount(open);
    }
    for (; x < width; ++x)
    {
        columns[count] = x;
        count += static_cast<int>(all || g[x] > 0);
    }
    return count;
}

//! Marks the groups of x that the open pixels of an output row read.
LCCL_INLINE void markNeeded(Task const& t, int outputRow, int const* columns, int count)
{
    lccl_cpu_params const& p = t.p;
    int const span = (p.s - 1) * p.dilations[1];
    for (int i = 0; i < p.r; ++i)
    {
        int const y = outputRow * p.strides[0] - p.pads[0] + i * p.dilations[0];
        if (y < 0 || y >= p.h)
        {
            continue;
        }
        unsigned const row = static_cast<unsigned>(y) * static_cast<unsigned>(p.w);
        for (int q = 0; q < count; ++q)
        {
            int const at = columns[q] * p.strides[1] - p.pads[1];
            unsigned const first = row + static_cast<unsigned>(at < 0 ? 0 : at < p.w ? at : p.w - 1);
            unsigned const last = row + static_cast<unsigned>(at + span < 0 ? 0 : at + span < p.w ? at + span : p.w - 1);
            t.needed[first / kGroup] = 1;
            t.needed[last / kGroup] = 1;
            for (unsigned g = first / kGroup + 1; g < last / kGroup; ++g)
            {
                t.needed[g] = 1;
            }
        }
    }
}

//! Appends an image's open pixels to the list, and marks the groups of x that they read.
//! \param all closed pixels are listed too; they come out as closed
static void listRows(Task& t, int image, bool all)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    uint64_t const rowOfTaps = (UINT64_C(1) << p.s) - 1;
    int64_t const imageWindow = static_cast<int64_t>(image) * plan.imageRows * plan.windowWidth;
    for (int y = 0; y < t.rows; ++y)
    {
        int32_t const pixel = static_cast<int32_t>((static_cast<int64_t>(image) * t.rows + y) * plan.wo);
        float const* const g = t.gate + pixel;
        int32_t* const columns = t.listPixel + t.count;
        int const count = listColumns(g, plan.wo, all, columns);
        if (count == 0)
        {
            continue;
        }
        if (t.needed != nullptr)
        {
            markNeeded(t, t.firstRow + y, columns, count);
        }
        int const inputRow = (t.firstRow + y) * p.strides[0] - p.pads[0];
        uint64_t const inside = insideTaps(inputRow, p.r, p.dilations[0], p.h);
        uint64_t rowTaps = 0;
        for (int i = 0; i < p.r; ++i)
        {
            rowTaps |= (inside >> i & 1) * (rowOfTaps << (i * p.s));
        }
        unsigned char const* const order = kClassOrder + borderClass(inside, p.r) * 4;
        int64_t const windowRow = imageWindow + static_cast<int64_t>(inputRow - windowTop(t, t.firstRow)) * plan.windowWidth;
        int64_t const offset = windowRow * plan.pitch;
        for (int i = 0; i < count; ++i)
        {
            int const x = columns[i], at = t.count + i;
            t.listOffset[at] = static_cast<int32_t>(offset + static_cast<int64_t>(x) * p.strides[1] * plan.pitch);
            t.listGate[at] = g[x];
            t.listTaps[at] = rowTaps & t.columnTaps[x];
            t.listClass[at] = order[t.columnClass[x]];
            columns[i] = pixel + x;
        }
        t.count += count;
    }
}

} // namespace LCCL_CPU_ISA
