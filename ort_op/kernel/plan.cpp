// Plans a call: refusals with their reasons, the cut into tasks, the layout of the scratch.
#include "plan.h"

#include "contract/geometry.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace lccl_cpu
{

using lccl::Maps;
using lccl::mapsOf;

namespace
{

constexpr int64_t kBandBytes = 512 << 10;      //!< of window and computed rows, so that they stay in L2
constexpr int64_t kImageGroupPixels = 512;     //!< output pixels of small images that share a pass over the weights
constexpr int64_t kMinTaskPixels = 64;         //!< below this a band costs more than it spreads
constexpr int64_t kHeavyWeightBytes = 1 << 20; //!< bytes from which small maps are spread by channels, not by rows
constexpr int64_t kHeavyPixels = 256;
constexpr double kMaxWindowFloats = 1 << 22; //!< floats of a window that may hold all of an image, or of several
constexpr double kSerialOperations = 2e6;    //!< multiplications and additions below which other threads are not woken
//! Below this, threads get one band each: what they do for a band costs more than waiting.
constexpr double kEvenOperations = 1e7;
constexpr double kSortCost = 80;                   //!< of a row, in multiplications of registers
constexpr int64_t kMaxElements = INT64_C(1) << 30; //!< elements of a scratch array: offsets are int32

int64_t ceilDiv(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t roundUp(int64_t a, int64_t b)
{
    return ceilDiv(a, b) * b;
}

__attribute__((format(printf, 2, 3))) bool refuse(Reason reason, char const* format, ...)
{
    if (reason.text != nullptr && reason.size > 0)
    {
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(reason.text, reason.size, format, arguments);
        va_end(arguments);
    }
    return false;
}

//! True for an empty refusal; else its sentence goes to `reason`.
bool holds(Reason reason, std::string const& refusal)
{
    return refusal.empty() || refuse(reason, "%s", refusal.c_str());
}

bool between(int64_t low, int64_t high, std::initializer_list<int32_t> values)
{
    return std::all_of(values.begin(), values.end(), [=](int32_t v) { return low <= v && v <= high; });
}

bool hasGate(lccl_cpu_params const& p)
{
    return p.has_gate_weight != 0;
}

GateSource gateSource(lccl_cpu_params const& p)
{
    if (!hasGate(p))
    {
        return GateSource::kNone;
    }
    if (p.x_channels_last != 0)
    {
        return GateSource::kPixels;
    }
    bool const planes = p.gate_strides[0] == 1 && p.gate_strides[1] == 1 && p.grid == 1
        && int64_t{p.gate_r} * p.gate_s <= kMaxPlaneTaps;
    return planes ? GateSource::kPlanes : GateSource::kWindow;
}

//! Sets the members of the plan that depend on the rows of a band.
void setBand(Plan& plan, lccl_cpu_params const& p, int64_t bandRows)
{
    plan.bandRows = static_cast<int>(bandRows);
    plan.bands = static_cast<int>(ceilDiv(plan.ho, bandRows));
    plan.cellRows = static_cast<int>(ceilDiv(bandRows, p.grid));
    int64_t rows = plan.top - p.pads[0] + (bandRows - 1) * p.strides[0] + (p.r - 1) * p.dilations[0] + 1;
    if (plan.gateSource == GateSource::kWindow)
    {
        int64_t const gateRows = (plan.cellRows - 1) * int64_t{p.gate_strides[0]} + (p.gate_r - 1) * p.gate_dilations[0] + 1;
        rows = std::max(rows, plan.top - p.gate_pads[0] + gateRows);
    }
    plan.windowRows = static_cast<int>(rows);
    plan.imageRows = plan.readsX ? p.h : plan.windowRows;
    plan.gateRows = plan.gateSource == GateSource::kPlanes ? static_cast<int>(bandRows + (p.gate_r - 1) * p.gate_dilations[0])
                                                           : 0;
    // 16 more, or maps whose size is a power of two would share sets of the L1 cache.
    plan.mapPitch = roundUp(int64_t{plan.gateRows} * p.w, 16) + 16;
}

//! Rows of a band whose window and results fit the second cache.
int64_t cachedRows(Plan const& plan, lccl_cpu_params const& p)
{
    int64_t const windowRow = int64_t{plan.windowWidth} * plan.pitch * 4;
    int64_t const halo = std::max<int64_t>((p.r - 1) * p.dilations[0] + 1 - p.strides[0], 0) * windowRow;
    int64_t const row = windowRow * p.strides[0] + int64_t{plan.wo} * plan.columns * 4;
    return std::max<int64_t>((kBandBytes - halo) / row, std::max<int64_t>(1, kMinTaskPixels / plan.wo));
}

double operations(Plan const& plan, lccl_cpu_params const& p)
{
    double const pixels = static_cast<double>(p.n) * plan.ho * plan.wo;
    double const density = p.density < 0 ? 0.5 : static_cast<double>(p.density);
    return 2 * pixels * p.c * (density * p.k * plan.taps + (hasGate(p) ? static_cast<double>(p.gate_r) * p.gate_s : 0));
}

void cut(Plan& plan, lccl_cpu_params const& p)
{
    int64_t const threads = operations(plan, p) < kSerialOperations ? 1 : p.threads;
    int64_t const pixels = int64_t{plan.ho} * plan.wo;
    int64_t const evenShare = std::max<int64_t>(1, ceilDiv(p.n, threads));
    setBand(plan, p, plan.ho);
    double const perImage = std::max(
        static_cast<double>(plan.windowRows) * plan.windowWidth * plan.pitch, static_cast<double>(pixels) * plan.columns);
    int64_t const together = std::min(kImageGroupPixels / pixels, static_cast<int64_t>(kMaxWindowFloats / perImage));
    plan.images = static_cast<int>(std::clamp<int64_t>(together, 1, evenShare));
    plan.imageGroups = static_cast<int>(ceilDiv(p.n, plan.images));

    int64_t rows = cachedRows(plan, p);
    bool const heavy = pixels <= kHeavyPixels && perImage <= kMaxWindowFloats
        && int64_t{plan.columns} * plan.taps * p.c * 4 > kHeavyWeightBytes;
    // A window follows its band only where the gate's rows do.
    bool const apart = plan.gateSource == GateSource::kWindow && p.gate_strides[0] != int64_t{p.strides[0]} * p.grid;
    if (plan.images > 1 || heavy || apart)
    {
        rows = plan.ho;
    }
    else if (threads > 1)
    {
        int64_t const bands = operations(plan, p) < kEvenOperations ? threads : 4 * threads;
        int64_t const wanted = std::max<int64_t>(1, ceilDiv(bands, std::max(plan.imageGroups, 1)));
        rows = std::min(rows, std::max(ceilDiv(plan.ho, wanted), ceilDiv(kMinTaskPixels, plan.wo)));
    }
    rows = ceilDiv(plan.ho, ceilDiv(plan.ho, std::min<int64_t>(rows, plan.ho))); // bands of about the same size
    setBand(plan, p, std::min<int64_t>(roundUp(rows, p.grid), plan.ho));

    int64_t const tasks = std::max<int64_t>(1, int64_t{plan.imageGroups} * plan.bands);
    plan.columnGroups = static_cast<int>(std::clamp<int64_t>(ceilDiv(threads, tasks), 1, plan.panels));
    plan.tasks = int64_t{plan.imageGroups} * plan.bands * plan.columnGroups;
    plan.workers = static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, plan.tasks)));
}

//! Whether sorting saves more than it costs. Rows that lack taps above or below are neighbours
//! anyway; this is about columns.
bool sortsRows(Plan const& plan, lccl_cpu_params const& p)
{
    int64_t missing = 0;
    for (int64_t x = 0; x < plan.wo; ++x)
    {
        for (int64_t i = 0; i < p.s; ++i)
        {
            int64_t const at = x * p.strides[1] - p.pads[1] + i * p.dilations[1];
            missing += at < 0 || at >= p.w;
        }
    }
    // Registers multiplied for a column of taps.
    double const perRow = static_cast<double>(p.r) * p.c * plan.columns / plan.vectorLanes;
    return static_cast<double>(missing) * perRow > kSortCost * plan.wo;
}

//! Hands out the parts of a worker's scratch, each on cache lines of its own.
struct Layout
{
    size_t bytes = 0;

    size_t take(int64_t count, size_t size)
    {
        size_t const at = bytes;
        bytes += static_cast<size_t>(roundUp(count * static_cast<int64_t>(size), 64));
        return at;
    }
};

Scratch layOut(Plan const& plan, lccl_cpu_params const& p)
{
    constexpr int64_t kSpare = 16; // a vector may be written past the end
    int64_t const pixels = int64_t{plan.images} * plan.bandRows * plan.wo;
    int64_t const groups = ceilDiv(int64_t{p.h} * p.w, kGroup);
    Layout layout;
    Scratch s{};
    s.window = layout.take(
        plan.readsX ? 0 : int64_t{plan.images} * plan.windowRows * plan.windowWidth * plan.pitch + kSpare, 4);
    s.compact = layout.take((pixels + 1) * plan.columns + kSpare, 4);
    s.tapMaps = layout.take(plan.gateRows > 0 ? plan.mapPitch * p.gate_r * p.gate_s : 0, 4);
    s.gateWeights = layout.take(plan.gateRows > 0 ? int64_t{p.c} * p.gate_r * p.gate_s + kSpare : 0, 4);
    s.cells = layout.take(int64_t{plan.cellRows} * plan.wg + kSpare, 4);
    s.gate = layout.take(pixels + kSpare, 4);
    s.listOffset = layout.take(pixels + kSpare, 4);
    s.listGate = layout.take(pixels + kSpare, 4);
    s.listTaps = layout.take(pixels + kSpare, 8);
    s.listPixel = layout.take(pixels + kSpare, 4);
    s.listClass = layout.take(pixels + kSpare, 1);
    s.sorted = layout.take(pixels + kSpare, 20);
    s.rowOf = layout.take(pixels + kSpare, 4);
    s.open = layout.take(int64_t{plan.images} * (int64_t{plan.bandRows} * plan.wo / kGroup + 1), 1);
    s.needed = layout.take(groups + kSpare, 1);
    s.present = layout.take(groups + kSpare, 1);
    s.groups = layout.take(groups + kSpare, 4);
    s.pixelOffset = layout.take(int64_t{plan.windowRows} * p.w + kSpare, 4);
    s.columnTaps = layout.take(plan.wo, 8);
    s.columnClass = layout.take(plan.wo, 1);
    s.range = layout.take(1, 8);
    s.vectors = layout.take(int64_t{plan.columns} * 4, 4);
    s.bytes = layout.bytes;
    return s;
}

//! Whether the window of a call would be a copy of x.
bool readsInPlace(lccl_cpu_params const& p)
{
    bool const isPadded = std::any_of(std::begin(p.pads), std::end(p.pads), [](int32_t pad) { return pad != 0; });
    return p.x_channels_last != 0 && !isPadded
        && 1.0 * kImageGroupPixels * p.h * p.w * p.c <= static_cast<double>(kMaxElements);
}

Plan planWithoutScratch(lccl_cpu_params const& p, lccl_cpu_isa const& isa)
{
    Plan plan{};
    Maps const out = mapsOf(p);
    plan.ho = static_cast<int>(out.ho);
    plan.wo = static_cast<int>(out.wo);
    plan.hg = static_cast<int>(out.hg);
    plan.wg = static_cast<int>(out.wg);
    plan.taps = p.r * p.s;
    plan.gateSource = gateSource(p);
    plan.vectorLanes = isa.vector_bytes / 4;
    plan.tileRows = isa.tile_rows;
    plan.tileColumns = isa.tile_columns;
    plan.columns = static_cast<int>(roundUp(p.k, plan.vectorLanes));
    plan.panels = static_cast<int>(ceilDiv(plan.columns, plan.tileColumns));

    int64_t const width = (out.wo - 1) * p.strides[1] + (p.s - 1) * p.dilations[1] + 1;
    plan.windowWidth = static_cast<int>(std::max<int64_t>(p.pads[1] + int64_t{p.w}, width));
    plan.pitch = static_cast<int>(roundUp(p.c, kGroup));
    if (plan.pitch % 128 == 0)
    {
        plan.pitch += 16; // or the rows of a tile would share few sets of the first cache
    }
    plan.readsX = plan.pitch == p.c && readsInPlace(p);
    plan.top = plan.gateSource == GateSource::kWindow ? std::max(p.pads[0], p.gate_pads[0]) : p.pads[0];
    cut(plan, p);
    plan.sorted = sortsRows(plan, p);
    plan.writesY = p.y_channels_last != 0 && p.k == plan.columns && plan.columnGroups == 1 && !plan.sorted;
    return plan;
}

//! Whether h and w are of a size that the kernels' offsets hold.
bool sizeFits(lccl_cpu_params const& p, Maps const& out, Reason reason)
{
    if (p.h < 1 || p.w < 1)
    {
        return refuse(reason, "h and w have to be positive");
    }
    if (out.ho < 1 || out.wo < 1)
    {
        return holds(reason, lccl::noPixelText(p.h, p.w, p.r, p.s));
    }
    double const largest = static_cast<double>(kMaxElements);
    if (1.0 * p.h * p.w > largest || 1.0 * out.ho * out.wo > largest)
    {
        return refuse(reason, "an image is too large: it has more than 2^30 pixels");
    }
    return true;
}

} // namespace

bool takesForm(lccl_cpu_params const& p, lccl_cpu_isa const* isa, Reason reason)
{
    constexpr int32_t kMaxSize = 1 << 20;
    if (p.abi != LCCL_CPU_ABI)
    {
        return refuse(reason, "the caller was compiled for version %u of the interface, this library has %u", p.abi,
            static_cast<unsigned>(LCCL_CPU_ABI));
    }
    if (isa == nullptr)
    {
        return refuse(reason, "this library has no such instruction set, or this machine cannot run it");
    }
    if (!between(1, kMaxElements / kMaxTaps, {p.c}) || !between(1, kMaxElements, {p.k}) || p.n < 0)
    {
        return refuse(reason, "c has to be from 1 to 2^30 / %d, k from 1 to 2^30, and n not negative", kMaxTaps);
    }
    if (!holds(reason, lccl::rejectKernelSize(p.r, p.s, kMaxKernel))
        || !holds(reason, lccl::rejectPostSizes(p.post_scale_size, p.post_bias_size, p.k)))
    {
        return false;
    }
    if (!between(1, kMaxSize, {p.strides[0], p.strides[1], p.dilations[0], p.dilations[1], p.grid}))
    {
        return refuse(reason, "strides, dilations and grid have to be from 1 to 2^20");
    }
    if (!between(0, kMaxSize, {p.pads[0], p.pads[1], p.pads[2], p.pads[3]}))
    {
        return refuse(reason, "pads have to be from 0 to 2^20");
    }
    if (!between(0, 1, {p.x_channels_last, p.y_channels_last}))
    {
        return refuse(reason, "x_channels_last and y_channels_last have to be 0 or 1");
    }
    if (p.threads < 1)
    {
        return refuse(reason, "threads has to be positive");
    }
    if (hasGate(p)
        && (!between(1, kMaxSize,
                {p.gate_r, p.gate_s, p.gate_strides[0], p.gate_strides[1], p.gate_dilations[0], p.gate_dilations[1]})
            || !between(0, kMaxSize, {p.gate_pads[0], p.gate_pads[1], p.gate_pads[2], p.gate_pads[3]})))
    {
        return refuse(reason, "the gate's kernel, strides and dilations have to be from 1 to 2^20, its pads from 0");
    }
    return true;
}

bool makePlan(lccl_cpu_params const& p, lccl_cpu_isa const* isa, Plan& plan, Reason reason)
{
    if (!takesForm(p, isa, reason))
    {
        return false;
    }
    Maps const out = mapsOf(p);
    if (!sizeFits(p, out, reason) || (hasGate(p) && !holds(reason, lccl::rejectGateSize(p, out))))
    {
        return false;
    }
    plan = planWithoutScratch(p, *isa);
    double const largest = static_cast<double>(kMaxElements);
    double const pixels = 1.0 * plan.images * plan.bandRows * plan.wo + 1;
    if (1.0 * plan.images * plan.windowRows * plan.windowWidth * plan.pitch > largest || pixels * plan.columns > largest
        || 1.0 * plan.mapPitch * (hasGate(p) ? 1.0 * p.gate_r * p.gate_s : 0.0) > largest)
    {
        return refuse(reason, "an image is too large: a band of rows has more than 2^30 elements");
    }
    if (plan.tasks > kMaxElements)
    {
        return refuse(reason, "the batch is too large: it has more than 2^30 bands of rows");
    }
    plan.scratch = layOut(plan, p);
    return true;
}

} // namespace lccl_cpu
