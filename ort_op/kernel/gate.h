// Computes the gate of every pixel of a band from x and an external gate map; 0 where a pixel is
// closed.
#pragma once

#include "window.h"

namespace LCCL_CPU_ISA
{

//! maps[t][q] = sum of weight[c][t] * x[c][q], over 16 channels at a time. A vector may be read
//! past the weights' end.
template <int kTaps>
static void sumPlanes(
    float const* x, int64_t plane, int64_t count, int channels, float const* weight, float* maps, int64_t mapPitch)
{
    constexpr int kChannels = 16;
    constexpr int kVectors = (kTaps + kLanes - 1) / kLanes;
    for (int c0 = 0; c0 < channels; c0 += kChannels)
    {
        int const c1 = c0 + kChannels < channels ? c0 + kChannels : channels;
        int64_t q = 0;
        for (; q + kLanes <= count; q += kLanes)
        {
            Vector sum[kTaps];
#pragma GCC unroll 9
            for (int t = 0; t < kTaps; ++t)
            {
                sum[t] = c0 == 0 ? Vector{} : load(maps + t * mapPitch + q);
            }
            for (int c = c0; c < c1; ++c)
            {
                Vector const v = load(x + c * plane + q);
#pragma GCC unroll 9
                for (int t = 0; t < kTaps; ++t)
                {
                    sum[t] = multiplyAdd(v, broadcast(weight[c * kTaps + t]), sum[t]);
                }
            }
#pragma GCC unroll 9
            for (int t = 0; t < kTaps; ++t)
            {
                store(maps + t * mapPitch + q, sum[t]);
            }
        }
        for (; q < count; ++q) // pixels past the last whole vector: by vectors of taps
        {
            float sum[kVectors * kLanes];
            for (int t = 0; t < kVectors * kLanes; ++t)
            {
                sum[t] = c0 == 0 || t >= kTaps ? 0.0F : maps[t * mapPitch + q];
            }
            Vector v[kVectors];
#pragma GCC unroll 3
            for (int i = 0; i < kVectors; ++i)
            {
                v[i] = load(sum + i * kLanes);
            }
            for (int c = c0; c < c1; ++c)
            {
                Vector const pixel = broadcast(x[c * plane + q]);
#pragma GCC unroll 3
                for (int i = 0; i < kVectors; ++i)
                {
                    v[i] = multiplyAdd(pixel, load(weight + c * kTaps + i * kLanes), v[i]);
                }
            }
#pragma GCC unroll 3
            for (int i = 0; i < kVectors; ++i)
            {
                store(sum + i * kLanes, v[i]);
            }
            for (int t = 0; t < kTaps; ++t)
            {
                maps[t * mapPitch + q] = sum[t];
            }
        }
    }
}

//! The same for one tap: 8 planes at a time, their weights in registers, so that few pages are open
//! at once.
static void sumPlanesOfOneTap(float const* x, int64_t plane, int64_t count, int channels, float const* weight, float* map)
{
    int c = 0;
    for (; c + 8 <= channels; c += 8)
    {
        Vector w[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i)
        {
            w[i] = broadcast(weight[c + i]);
        }
        float const* const from = x + c * plane;
        int64_t q = 0;
        for (; q + 2 * kLanes <= count; q += 2 * kLanes)
        {
            Vector low = c == 0 ? Vector{} : load(map + q), high = c == 0 ? Vector{} : load(map + q + kLanes);
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i)
            {
                low = multiplyAdd(load(from + i * plane + q), w[i], low);
                high = multiplyAdd(load(from + i * plane + q + kLanes), w[i], high);
            }
            store(map + q, low);
            store(map + q + kLanes, high);
        }
        for (; q + kLanes <= count; q += kLanes)
        {
            Vector sum = c == 0 ? Vector{} : load(map + q);
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i)
            {
                sum = multiplyAdd(load(from + i * plane + q), w[i], sum);
            }
            store(map + q, sum);
        }
        for (; q < count; ++q)
        {
            float sum = c == 0 ? 0.0F : map[q];
            for (int i = 0; i < 8; ++i)
            {
                sum = multiplyAdd(from[i * plane + q], weight[c + i], sum);
            }
            map[q] = sum;
        }
    }
    for (; c < channels; ++c)
    {
        float const* const from = x + c * plane;
        for (int64_t q = 0; q < count; ++q)
        {
            map[q] = multiplyAdd(from[q], weight[c], c == 0 ? 0.0F : map[q]);
        }
    }
}

static void sumTaps(Task const& t, float const* x, int64_t count, float* maps, int64_t mapPitch)
{
    int64_t const plane = static_cast<int64_t>(t.p.h) * t.p.w;
    float const* const w = t.gateWeights;
    switch (t.p.gate_r * t.p.gate_s)
    {
    case 1: return sumPlanesOfOneTap(x, plane, count, t.p.c, t.p.gate_weight, maps);
    case 2: return sumPlanes<2>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 3: return sumPlanes<3>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 4: return sumPlanes<4>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 5: return sumPlanes<5>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 6: return sumPlanes<6>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 7: return sumPlanes<7>(x, plane, count, t.p.c, w, maps, mapPitch);
    case 8: return sumPlanes<8>(x, plane, count, t.p.c, w, maps, mapPitch);
    default: return sumPlanes<9>(x, plane, count, t.p.c, w, maps, mapPitch);
    }
}

//! The gate's weights with a channel's taps side by side: [c, taps].
static void prepareGate(Task const& t)
{
    int const taps = t.p.gate_r * t.p.gate_s;
    for (int tap = 0; tap < taps && taps > 1 && t.plan.gateSource == GateSource::kPlanes; ++tap)
    {
        for (int c = 0; c < t.p.c; ++c)
        {
            t.gateWeights[c * taps + tap] = t.p.gate_weight[tap * t.p.c + c];
        }
    }
}

//! A row of logits: the maps of its taps, shifted. `inputRow` is where the first tap falls, `low`
//! the first row of the maps.
static void addTaps(Task const& t, int inputRow, int low, float* to)
{
    lccl_cpu_params const& p = t.p;
    int64_t const mapPitch = t.plan.mapPitch;
    float const* from[lccl_cpu::kMaxPlaneTaps];
    int begin[lccl_cpu::kMaxPlaneTaps], end[lccl_cpu::kMaxPlaneTaps];
    int taps = 0, first = 0, last = t.plan.wo;
    for (int i = 0; i < p.gate_r; ++i)
    {
        int const row = inputRow + i * p.gate_dilations[0];
        for (int j = 0; j < p.gate_s && row >= 0 && row < p.h; ++j, ++taps)
        {
            int const shift = j * p.gate_dilations[1] - p.gate_pads[1];
            begin[taps] = shift < 0 ? -shift : 0;
            end[taps] = p.w - shift < t.plan.wo ? p.w - shift : t.plan.wo;
            from[taps] = t.tapMaps + (i * p.gate_s + j) * mapPitch + static_cast<int64_t>(row - low) * p.w + shift;
            first = begin[taps] > first ? begin[taps] : first;
            last = end[taps] < last ? end[taps] : last;
        }
    }
    float const bias = p.gate_bias != nullptr ? p.gate_bias[0] : 1.0F;
    auto const addOne = [&](int x)
    {
        float sum = bias;
        for (int tap = 0; tap < taps; ++tap)
        {
            sum += x >= begin[tap] && x < end[tap] ? from[tap][x] : 0.0F;
        }
        to[x] = sum;
    };
    int x = 0;
    for (; x < first && x < t.plan.wo; ++x)
    {
        addOne(x);
    }
    // Where every tap is inside: by vectors, of which the last overlaps the one before.
    if (last - x >= kLanes)
    {
        for (; x < last; x += kLanes)
        {
            x = x + kLanes <= last ? x : last - kLanes;
            Vector sum = broadcast(bias);
            for (int tap = 0; tap < taps; ++tap)
            {
                sum += load(from[tap] + x);
            }
            store(to + x, sum);
        }
    }
    else if (last - x >= kSquare)
    {
        for (; x < last; x += kSquare)
        {
            x = x + kSquare <= last ? x : last - kSquare;
            SquareRow sum = broadcastRow(bias);
            for (int tap = 0; tap < taps; ++tap)
            {
                sum += loadRow(from[tap] + x);
            }
            storeRow(to + x, sum);
        }
    }
    for (; x < t.plan.wo; ++x)
    {
        addOne(x);
    }
}

//! Logits of an image's band from its planes: a map per tap over the rows that the gate reads, then
//! the taps added, shifted.
static void logitsFromPlanes(Task const& t, int image, float* logits)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    int64_t const plane = static_cast<int64_t>(p.h) * p.w;
    int64_t const mapPitch = plan.mapPitch;
    int const top = t.firstRow - p.gate_pads[0];
    int const bottom = top + t.rows + (p.gate_r - 1) * p.gate_dilations[0];
    int const low = top < 0 ? 0 : top, high = bottom > p.h ? p.h : bottom;
    int fresh = low; // rows above are there from the band before
    if (t.follows && p.gate_r > 1)
    {
        int const before = t.firstRow - plan.bandRows - p.gate_pads[0];
        int const beforeLow = before < 0 ? 0 : before;
        int beforeHigh = before + plan.bandRows + (p.gate_r - 1) * p.gate_dilations[0];
        beforeHigh = beforeHigh > p.h ? p.h : beforeHigh;
        if (beforeHigh > low)
        {
            for (int tap = 0; tap < p.gate_r * p.gate_s; ++tap)
            {
                float* const map = t.tapMaps + tap * mapPitch;
                memmove(map, map + static_cast<int64_t>(low - beforeLow) * p.w,
                    static_cast<size_t>(beforeHigh - low) * p.w * sizeof(float));
            }
            fresh = beforeHigh;
        }
    }
    if (high > fresh)
    {
        float const* const x = p.x + (t.firstImage + image) * p.c * plane + static_cast<int64_t>(fresh) * p.w;
        sumTaps(t, x, static_cast<int64_t>(high - fresh) * p.w, t.tapMaps + static_cast<int64_t>(fresh - low) * p.w, mapPitch);
    }
    for (int y = 0; y < t.rows; ++y)
    {
        addTaps(t, top + y, low, logits + static_cast<int64_t>(y) * plan.wo);
    }
}

LCCL_INLINE float dot(float const* a, float const* b, int count)
{
    Vector sum = {};
    int c = 0;
    for (; c + kLanes <= count; c += kLanes)
    {
        sum = multiplyAdd(load(a + c), load(b + c), sum);
    }
    float total = 0;
    for (int i = 0; i < kLanes; ++i)
    {
        total += sum[i];
    }
    for (; c < count; ++c)
    {
        total = multiplyAdd(a[c], b[c], total);
    }
    return total;
}

//! Logits of an image's band from its window.
static void logitsFromWindow(Task const& t, int image, int cellRows, float* logits)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    float const* const window = t.window(image);
    int const top = windowTop(t, t.firstRow);
    float const bias = p.gate_bias != nullptr ? p.gate_bias[0] : 1.0F;
    for (int cell = 0; cell < cellRows * plan.wg; ++cell)
    {
        int const y = (t.firstRow / p.grid + cell / plan.wg) * p.gate_strides[0] - p.gate_pads[0];
        int const x = cell % plan.wg * p.gate_strides[1] - p.gate_pads[1];
        float sum = bias;
        for (int i = 0; i < p.gate_r; ++i)
        {
            int const row = y + i * p.gate_dilations[0];
            for (int j = 0; j < p.gate_s && row >= 0 && row < p.h; ++j)
            {
                int const column = x + j * p.gate_dilations[1];
                if (column >= 0 && column < p.w)
                {
                    int64_t const pixel = static_cast<int64_t>(row - top) * plan.windowWidth + column + p.pads[1];
                    sum += dot(window + pixel * plan.pitch, p.gate_weight + static_cast<int64_t>(i * p.gate_s + j) * p.c, p.c);
                }
            }
        }
        logits[cell] = sum;
    }
}

constexpr int kCellsTogether = 8; //!< with fewer sums at once, each would wait for the one before

//! The sums of the lanes of 8 vectors.
LCCL_INLINE void sumLanes(Vector const (&v)[kCellsTogether], float* sums)
{
#if defined(__AVX__) && LCCL_CPU_VECTOR_BYTES >= 32
    __m256 h[kCellsTogether];
    for (int i = 0; i < kCellsTogether; ++i)
    {
#if LCCL_CPU_VECTOR_BYTES == 32
        h[i] = reinterpret_cast<__m256>(v[i]);
#else
        float lanes[kLanes];
        store(lanes, v[i]);
        h[i] = _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + kLanes / 2));
#endif
    }
    __m256 const low = _mm256_hadd_ps(_mm256_hadd_ps(h[0], h[1]), _mm256_hadd_ps(h[2], h[3]));
    __m256 const high = _mm256_hadd_ps(_mm256_hadd_ps(h[4], h[5]), _mm256_hadd_ps(h[6], h[7]));
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)));
#else
    for (int i = 0; i < kCellsTogether; ++i)
    {
        sums[i] = 0;
        for (int lane = 0; lane < kLanes; ++lane)
        {
            sums[i] += v[i][lane];
        }
    }
#endif
}

//! Where taps of the gate fall: rows and columns of the kernel, from first to before end.
struct TapRange
{
    int firstRow, endRow, firstColumn, endColumn;
};

//! Adds the products of a row of taps to the sums of `kCells` cells side by side, from x with its
//! channels innermost: channel by channel, tap by tap.
//! \param x where the first tap of the first cell falls
//! \param step floats from cell to cell
template <int kCells>
LCCL_INLINE void addTapRow(Task const& t, float const* x, int64_t step, int row, TapRange taps, Vector (&sum)[kCellsTogether],
    float (&rest)[kCellsTogether])
{
    lccl_cpu_params const& p = t.p;
    int64_t const tap = static_cast<int64_t>(p.gate_dilations[1]) * p.c;
    float const* const weight = p.gate_weight + static_cast<int64_t>(row) * p.gate_s * p.c;
    int c = 0;
    for (; c + kLanes <= p.c; c += kLanes)
    {
        for (int j = taps.firstColumn; j < taps.endColumn; ++j)
        {
            Vector const w = load(weight + static_cast<int64_t>(j) * p.c + c);
#pragma GCC unroll 8
            for (int cell = 0; cell < kCells; ++cell)
            {
                sum[cell] = multiplyAdd(load(x + j * tap + cell * step + c), w, sum[cell]);
            }
        }
    }
    for (; c < p.c; ++c)
    {
        for (int j = taps.firstColumn; j < taps.endColumn; ++j)
        {
            for (int cell = 0; cell < kCells; ++cell)
            {
                rest[cell] = multiplyAdd(x[j * tap + cell * step + c], weight[static_cast<int64_t>(j) * p.c + c], rest[cell]);
            }
        }
    }
}

//! The same, in the same order, for three taps that neighbouring cells share: each pixel is loaded
//! once.
LCCL_INLINE void addThreeTaps(float const* x, float const* weight, int channels, Vector (&sum)[kCellsTogether])
{
    constexpr int kTaps = 3;
    for (int c = 0; c + kLanes <= channels; c += kLanes)
    {
        Vector const w[kTaps]{load(weight + c), load(weight + channels + c), load(weight + 2 * channels + c)};
#pragma GCC unroll 10
        for (int pixel = 0; pixel < kCellsTogether + kTaps - 1; ++pixel)
        {
            Vector const v = load(x + static_cast<int64_t>(pixel) * channels + c);
#pragma GCC unroll 3
            for (int j = 0; j < kTaps; ++j)
            {
                int const cell = pixel - j;
                if (cell >= 0 && cell < kCellsTogether)
                {
                    sum[cell] = multiplyAdd(v, w[j], sum[cell]);
                }
            }
        }
    }
}

//! Adds the products of a row of taps in the way that is the fastest for so many cells.
template <int kCells>
LCCL_INLINE void addRow(Task const& t, float const* x, int64_t step, int row, TapRange taps, Vector (&sum)[kCellsTogether],
    float (&rest)[kCellsTogether])
{
    lccl_cpu_params const& p = t.p;
    bool const shared = p.gate_s == 3 && p.gate_strides[1] == 1 && p.gate_dilations[1] == 1 && p.c % kLanes == 0;
    if (kCells == kCellsTogether && shared)
    {
        addThreeTaps(x, p.gate_weight + static_cast<int64_t>(row) * p.gate_s * p.c, p.c, sum);
    }
    else
    {
        addTapRow<kCells>(t, x, step, row, taps, sum, rest);
    }
}

//! Logits of `kCells` cells side by side; the same sums in the same order for any number of cells.
//! In a large kernel each row of taps has a sum of its own, so that long sums round less.
template <int kCells>
LCCL_INLINE void dotPixels(Task const& t, float const* x, int64_t step, TapRange taps, float bias, float* logits)
{
    constexpr int kFewRows = 3;
    int64_t const row = static_cast<int64_t>(t.p.gate_dilations[0]) * t.p.w * t.p.c;
    Vector total[kCellsTogether] = {};
    float rest[kCellsTogether] = {};
    if (t.p.gate_r <= kFewRows)
    {
        for (int i = taps.firstRow; i < taps.endRow; ++i)
        {
            addRow<kCells>(t, x + i * row, step, i, taps, total, rest);
        }
    }
    else
    {
        for (int i = taps.firstRow; i < taps.endRow; ++i)
        {
            Vector sum[kCellsTogether] = {};
            addRow<kCells>(t, x + i * row, step, i, taps, sum, rest);
#pragma GCC unroll 8
            for (int cell = 0; cell < kCells; ++cell)
            {
                total[cell] += sum[cell];
            }
        }
    }
    float sums[kCellsTogether];
    sumLanes(total, sums);
    for (int cell = 0; cell < kCells; ++cell)
    {
        logits[cell] = bias + (sums[cell] + rest[cell]);
    }
}

//! From the first of `taps` that is not before 0 to before the first that is not below `size`.
LCCL_INLINE void insideRange(int at, int taps, int dilation, int size, int& first, int& end)
{
    first = at < 0 ? (-at + dilation - 1) / dilation : 0;
    end = at >= size ? 0 : (size - at + dilation - 1) / dilation;
    end = end < taps ? end : taps;
}

//! Logits of `kCells` cells, whose taps are all in the row.
//! \return whether there are so many left
template <int kCells>
LCCL_INLINE bool dotInside(Task const& t, float const* x, int column, TapRange taps, float bias, float* logits, int cells)
{
    lccl_cpu_params const& p = t.p;
    int const last = column + (kCells - 1) * p.gate_strides[1] + (p.gate_s - 1) * p.gate_dilations[1];
    if (column < 0 || last >= p.w || kCells > cells)
    {
        return false;
    }
    taps.firstColumn = 0;
    taps.endColumn = p.gate_s;
    dotPixels<kCells>(t, x, static_cast<int64_t>(p.gate_strides[1]) * p.c, taps, bias, logits);
    return true;
}

//! Logits of an image's band from x, whose channels are innermost.
static void logitsFromPixels(Task const& t, int image, int cellRows, float* logits)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    float const* const x = p.x + (t.firstImage + image) * p.c * (static_cast<int64_t>(p.h) * p.w);
    float const bias = p.gate_bias != nullptr ? p.gate_bias[0] : 1.0F;
    for (int cellRow = 0; cellRow < cellRows; ++cellRow)
    {
        int const y = (t.firstRow / p.grid + cellRow) * p.gate_strides[0] - p.gate_pads[0];
        TapRange taps{};
        insideRange(y, p.gate_r, p.gate_dilations[0], p.h, taps.firstRow, taps.endRow);
        float* const to = logits + static_cast<int64_t>(cellRow) * plan.wg;
        for (int cell = 0; cell < plan.wg;)
        {
            int const column = cell * p.gate_strides[1] - p.gate_pads[1];
            float const* const from = x + (static_cast<int64_t>(y) * p.w + column) * p.c;
            if (dotInside<kCellsTogether>(t, from, column, taps, bias, to + cell, plan.wg - cell))
            {
                cell += kCellsTogether;
            }
            else if (dotInside<kCellsTogether / 2>(t, from, column, taps, bias, to + cell, plan.wg - cell))
            {
                cell += kCellsTogether / 2;
            }
            else
            {
                insideRange(column, p.gate_s, p.gate_dilations[1], p.w, taps.firstColumn, taps.endColumn);
                dotPixels<1>(t, from, 0, taps, bias, to + cell);
                ++cell;
            }
        }
    }
}

//! Logits -> gate values, in place, times the map from outside.
static void decide(lccl_cpu_params const& p, float* values, int64_t count, float const* gate)
{
    for (int64_t i = 0; i < count; ++i)
    {
        float v = p.gate_slope * values[i];
        v = v > 0 ? v : 0; // not of a NaN
        v = v < p.gate_max ? v : p.gate_max;
        values[i] = v;
    }
    for (int64_t i = 0; i < count; ++i)
    {
        float const v = gate != nullptr ? values[i] * gate[i] : values[i];
        values[i] = v > p.gate_threshold && v > 0 ? v : 0.0F;
    }
}

//! Gate values of an image's band into t.gate. The window is filled already where the gate reads
//! it.
static void computeGate(Task const& t, int image)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    float* const g = t.gate + image * t.bandPixels();
    int const cellRows = (t.rows + p.grid - 1) / p.grid;
    int64_t const cells = static_cast<int64_t>(cellRows) * plan.wg;
    float* const values = p.grid == 1 ? g : t.cells;
    switch (plan.gateSource)
    {
    case GateSource::kPlanes: logitsFromPlanes(t, image, values); break;
    case GateSource::kWindow: logitsFromWindow(t, image, cellRows, values); break;
    case GateSource::kPixels: logitsFromPixels(t, image, cellRows, values); break;
    case GateSource::kNone:
        for (int64_t i = 0; i < cells; ++i)
        {
            values[i] = p.gate_bias != nullptr ? p.gate_bias[0] : 1.0F;
        }
    }
    int64_t const first = ((t.firstImage + image) * plan.hg + t.firstRow / p.grid) * plan.wg;
    decide(p, values, cells, p.gate != nullptr ? p.gate + first : nullptr);
    if (p.grid == 1)
    {
        return;
    }
    for (int y = 0; y < t.rows; ++y)
    {
        float const* const from = t.cells + static_cast<int64_t>(y / p.grid) * plan.wg;
        for (int x = 0; x < plan.wo; ++x)
        {
            g[static_cast<int64_t>(y) * plan.wo + x] = from[x / p.grid];
        }
    }
}

} // namespace LCCL_CPU_ISA
