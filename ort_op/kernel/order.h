// Brings the list of open pixels into the order of the tiles, so that pixels with the same missing
// taps share one, and maps pixels back to their rows.
#pragma once

#include "rows.h"

namespace LCCL_CPU_ISA
{

//! Sorts the list by class, so that a tile can leave out taps that are padding for all of its rows.
static void sortRows(Task& t)
{
    int start[kClasses + 1] = {};
    for (int i = 0; i < t.count; ++i)
    {
        ++start[t.listClass[i] + 1];
    }
    if (start[kClassOrder[0] + 1] == t.count)
    {
        return; // nothing at the border
    }
    for (int c = 0; c < kClasses; ++c)
    {
        start[c + 1] += start[c];
    }
    uint64_t* const taps = reinterpret_cast<uint64_t*>(t.sorted);
    int32_t* const offset = reinterpret_cast<int32_t*>(taps + t.count);
    int32_t* const pixel = offset + t.count;
    float* const gate = reinterpret_cast<float*>(pixel + t.count);
    for (int i = 0; i < t.count; ++i)
    {
        int const to = start[t.listClass[i]]++;
        taps[to] = t.listTaps[i];
        offset[to] = t.listOffset[i];
        pixel[to] = t.listPixel[i];
        gate[to] = t.listGate[i];
    }
    t.listTaps = taps;
    t.listOffset = offset;
    t.listPixel = pixel;
    t.listGate = gate;
}

//! Sets rowOf: the row of each pixel in compact.
static void indexRows(Task& t)
{
    int32_t const columns = t.compactPitch;
    int32_t const closed = t.count * columns;
    for (int64_t q = 0; q < t.pixels; ++q)
    {
        t.rowOf[q] = closed;
    }
    for (int i = 0; i < t.count; ++i)
    {
        t.rowOf[t.listPixel[i]] = i * columns;
    }
}

//! Brings the list, once it is whole, into the order of the tiles.
static void finishRows(Task& t)
{
    if (t.plan.sorted)
    {
        sortRows(t);
    }
    indexRows(t);
}

} // namespace LCCL_CPU_ISA
