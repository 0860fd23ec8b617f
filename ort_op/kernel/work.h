// A worker: takes tasks and carries each out, from the gate to y.
#pragma once

#include "gate.h"
#include "order.h"
#include "output.h"
#include "tile.h"

namespace LCCL_CPU_ISA
{

//! From this density on, all pixels are listed: nothing is left to skip.
constexpr double kFullListDensity = 0.97;

//! From this density on, all of x is brought into the window: marking what is needed would cost
//! more than it saves.
constexpr double kWholeWindowDensity = 0.4;

//! With fewer channels of x than this, all of it is brought, too.
constexpr int kMinMarkedChannels = 32;

//! A task with pointers into the worker's scratch.
static Task makeTask(Call const& call, size_t worker)
{
    lccl_cpu::Scratch const& s = call.plan->scratch;
    char* const m = call.workspace + worker * s.bytes;
    Task t{*call.params, *call.plan, m};
    t.windows = reinterpret_cast<float*>(m + s.window);
    t.tapMaps = reinterpret_cast<float*>(m + s.tapMaps);
    t.cells = reinterpret_cast<float*>(m + s.cells);
    t.gateWeights = reinterpret_cast<float*>(m + s.gateWeights);
    t.gate = reinterpret_cast<float*>(m + s.gate);
    t.sorted = m + s.sorted;
    t.rowOf = reinterpret_cast<int32_t*>(m + s.rowOf);
    t.open = reinterpret_cast<unsigned char*>(m + s.open);
    t.present = reinterpret_cast<unsigned char*>(m + s.present);
    t.groups = reinterpret_cast<int32_t*>(m + s.groups);
    t.pixelOffset = reinterpret_cast<int32_t*>(m + s.pixelOffset);
    t.columnTaps = reinterpret_cast<uint64_t*>(m + s.columnTaps);
    t.columnClass = reinterpret_cast<unsigned char*>(m + s.columnClass);
    t.vectors = reinterpret_cast<float*>(m + s.vectors);
    t.groupCount = static_cast<size_t>((static_cast<int64_t>(t.p.h) * t.p.w + kGroup - 1) / kGroup);
    for (int i = 0; i < t.p.r; ++i)
    {
        for (int j = 0; j < t.p.s; ++j)
        {
            int64_t const row = static_cast<int64_t>(i) * t.p.dilations[0] * t.plan.windowWidth;
            t.tapOffset[i * t.p.s + j] = (row + j * t.p.dilations[1]) * t.plan.pitch;
        }
    }
    return t;
}

//! Channel vectors, padded: bias, post_scale, post_bias, and y of a closed pixel before the
//! residual.
static void prepareVectors(Task const& t)
{
    lccl_cpu_params const& p = t.p;
    int const columns = t.plan.columns;
    for (int k = 0; k < columns; ++k)
    {
        bool const inside = k < p.k;
        float const scale = !inside || p.post_scale == nullptr ? 1.0F : p.post_scale[p.post_scale_size == 1 ? 0 : k];
        float const offset = !inside || p.post_bias == nullptr ? 0.0F : p.post_bias[p.post_bias_size == 1 ? 0 : k];
        t.vectors[k] = inside ? p.bias[k] : 0.0F;
        t.vectors[columns + k] = scale;
        t.vectors[2 * columns + k] = offset;
        t.vectors[3 * columns + k] = p.residual != nullptr ? offset : leaky(offset, p.post_alpha);
    }
}

//! Sets the task's place and empties its list.
static void placeTask(Task& t, Call const& call, int64_t index, int64_t last)
{
    lccl_cpu::Scratch const& s = call.plan->scratch;
    Plan const& plan = t.plan;
    int64_t const columnGroup = index / (static_cast<int64_t>(plan.imageGroups) * plan.bands);
    int const band = static_cast<int>(index % plan.bands);
    int64_t const imageGroup = index / plan.bands % plan.imageGroups;
    t.firstImage = imageGroup * plan.images;
    t.images = t.firstImage + plan.images <= t.p.n ? plan.images : static_cast<int>(t.p.n - t.firstImage);
    t.firstRow = band * plan.bandRows;
    t.rows = t.firstRow + plan.bandRows <= plan.ho ? plan.bandRows : plan.ho - t.firstRow;
    t.firstPanel = static_cast<int>(plan.panels * columnGroup / plan.columnGroups);
    t.endPanel = static_cast<int>(plan.panels * (columnGroup + 1) / plan.columnGroups);
    t.follows = band > 0 && last == index - 1;
    int const lastColumn = t.endPanel * plan.tileColumns < plan.columns ? t.endPanel * plan.tileColumns : plan.columns;
    t.compactPitch = lastColumn - t.firstPanel * plan.tileColumns;
    t.pixels = t.images * t.bandPixels();
    t.count = 0;
    if (plan.readsX)
    {
        t.windows = const_cast<float*>(t.p.x) + t.firstImage * t.p.h * t.p.w * t.p.c;
    }
    t.compact = reinterpret_cast<float*>(t.scratch + s.compact);
    t.listOffset = reinterpret_cast<int32_t*>(t.scratch + s.listOffset);
    t.listGate = reinterpret_cast<float*>(t.scratch + s.listGate);
    t.listTaps = reinterpret_cast<uint64_t*>(t.scratch + s.listTaps);
    t.listPixel = reinterpret_cast<int32_t*>(t.scratch + s.listPixel);
    t.listClass = reinterpret_cast<unsigned char*>(t.scratch + s.listClass);
}

//! Computes the gate, lists the rows and fills the window that they read.
//! \return how many pixels are active
static int64_t prepareRows(Task& t, Call const& call)
{
    bool const whole = t.plan.gateSource == GateSource::kWindow;
    int64_t active = 0;
    for (int image = 0; image < t.images; ++image)
    {
        if (!t.plan.readsX)
        {
            startWindow(t, image);
        }
        if (whole)
        {
            fillWindow(t, image, true);
        }
        computeGate(t, image);
        float const* const g = t.gate + image * t.bandPixels();
        int64_t open = 0;
        for (int64_t q = 0; q < t.bandPixels(); ++q)
        {
            open += g[q] > 0;
        }
        active += open;
        double const part = static_cast<double>(open) / static_cast<double>(t.bandPixels());
        bool const mark = !whole && !t.plan.readsX && open > 0 && part < kWholeWindowDensity && t.p.c >= kMinMarkedChannels;
        t.needed = mark ? reinterpret_cast<unsigned char*>(t.scratch + call.plan->scratch.needed) : nullptr;
        if (mark)
        {
            memset(t.needed, 0, t.groupCount);
        }
        listRows(t, image, part >= kFullListDensity);
        if (!whole && !t.plan.readsX && open > 0)
        {
            fillWindow(t, image, !mark);
        }
    }
    finishRows(t);
    return active;
}

//! Runs the micro-kernel over all tiles, one pass of the weights after the other.
static void multiplyPanel(Task const& t, int panel, Epilogue const& epilogue)
{
    lccl_cpu_params const& p = t.p;
    Plan const& plan = t.plan;
    int const width = lccl_cpu::panelColumns(plan, panel);
    int const tiles = (t.count + kTileRows - 1) / kTileRows;
    int64_t const depth = static_cast<int64_t>(plan.taps) * p.c;
    int const pieces = (p.c + lccl_cpu::kPassDepth - 1) / lccl_cpu::kPassDepth; // of a tap's channels
    int const step = (p.c + pieces - 1) / pieces;
    int const taps = pieces > 1 ? 1 : lccl_cpu::kPassDepth / p.c; // of a pass
    float const* const packed = static_cast<float const*>(p.packed_weight);
    float const* const weights = packed + static_cast<int64_t>(panel) * plan.tileColumns * depth;
    float const* rows[kTileRows];
    Pass pass{};
    pass.rows = rows;
    pass.tapOffset = t.tapOffset;
    pass.weightsOfTap = static_cast<int64_t>(p.c) * width;
    pass.sumsPitch = t.compactPitch;
    float* const sums = t.compact + (panel - t.firstPanel) * plan.tileColumns;
    for (int tap = 0; tap < plan.taps; tap += taps)
    {
        int const end = tap + taps < plan.taps ? tap + taps : plan.taps;
        uint64_t const these = (UINT64_C(1) << end) - (UINT64_C(1) << tap);
        for (int c = 0; c < p.c; c += step)
        {
            pass.first = tap == 0 && c == 0;
            pass.epilogue = end == plan.taps && c + step >= p.c ? &epilogue : nullptr;
            pass.firstChannel = c;
            pass.channels = c + step < p.c ? step : p.c - c;
            pass.weights = weights + static_cast<int64_t>(c) * width;
            // Memory is read evenly while tiles compute: each brings a share of the weights that
            // come next.
            int64_t const steps = static_cast<int64_t>(end - tap) * pass.channels;
            float const* const next = pass.weights + tap * pass.weightsOfTap + steps * width;
            pass.aheadStep = width / tiles > 0 ? (width + tiles - 1) / tiles : 1;
            for (int i = 0; i < tiles; ++i)
            {
                int const first = static_cast<int>(static_cast<int64_t>(t.count) * i / tiles);
                int const count = static_cast<int>(static_cast<int64_t>(t.count) * (i + 1) / tiles) - first;
                uint64_t inside = 0;
                for (int j = 0; j < count; ++j)
                {
                    rows[j] = t.windows + t.listOffset[first + j];
                    inside |= t.listTaps[first + j];
                }
                pass.taps = inside & these;
                if (pass.taps == 0 && !pass.first && pass.epilogue == nullptr)
                {
                    continue;
                }
                pass.sums = sums + static_cast<int64_t>(first) * t.compactPitch;
                pass.gate = t.listGate + first;
                int64_t const share = i * steps * pass.aheadStep;
                pass.ahead = share < steps * width ? next + share : pass.weights;
                tileFunction(count, width / kLanes)(pass);
            }
        }
    }
}

//! Whether every pixel of a task is computed, so that its rows can lie in y, one behind the other.
LCCL_INLINE bool computesInY(Task const& t)
{
    return t.plan.writesY && t.count == t.pixels && (t.images == 1 || t.rows == t.plan.ho);
}

static void multiply(Task const& t)
{
    lccl_cpu_params const& p = t.p;
    int const columns = t.plan.columns;
    int const start = t.firstPanel * t.plan.tileColumns;
    if (!computesInY(t))
    {
        memcpy(t.compact + static_cast<int64_t>(t.count) * t.compactPitch, t.vectors + 3 * columns + start,
            static_cast<size_t>(t.compactPitch) * sizeof(float));
    }
    bool const affine = p.post_scale != nullptr || p.post_bias != nullptr;
    for (int panel = t.firstPanel; panel < t.endPanel && t.count > 0; ++panel)
    {
        float const* const vectors = t.vectors + panel * t.plan.tileColumns;
        multiplyPanel(t, panel,
            {vectors, affine ? vectors + columns : nullptr, vectors + 2 * columns, p.activation_alpha,
                p.residual != nullptr ? 1.0F : p.post_alpha});
    }
}

static void work(void* data, size_t worker)
{
    Call& call = *static_cast<Call*>(data);
    Task t = makeTask(call, worker);
    int64_t last = -2, active = 0;
    for (;;)
    {
        int64_t const index = lccl_cpu::takeTask(call.workspace, t.plan, static_cast<int64_t>(worker));
        if (index < 0)
        {
            break;
        }
        if (last < 0)
        {
            prepareColumns(t);
            prepareGate(t);
            prepareVectors(t);
        }
        placeTask(t, call, index, last);
        int64_t const open = prepareRows(t, call);
        active += t.firstPanel == 0 ? open : 0;
        bool const inY = computesInY(t);
        if (inY)
        {
            t.compact = t.p.y + (t.firstImage * t.plan.ho + t.firstRow) * t.plan.wo * t.p.k;
        }
        multiply(t);
        for (int image = 0; image < t.images && !(inY && t.p.residual == nullptr); ++image)
        {
            writeOutput(t, image);
        }
        last = index;
    }
    __atomic_fetch_add(&call.active, active, __ATOMIC_RELAXED);
}

} // namespace LCCL_CPU_ISA
