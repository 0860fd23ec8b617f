// Properties of the kernels' index functions that no small layer reaches: large numbers, every
// lane, every place. Prints a line for each check; exit code 1 if one failed.

#include "plan.h"
#include "rows.h"

#include <cstdio>
#include <random>
#include <vector>

namespace lccl
{

//! Of launch.cpp, which needs the kernels.
bool hasCudaKernels()
{
    return true;
}

} // namespace lccl

namespace
{

using namespace lccl;

int failures = 0;

void report(char const* what, bool right)
{
    std::printf("%s %s\n", right ? "ok  " : "FAIL", what);
    failures += right ? 0 : 1;
}

bool divisionIsExact()
{
    std::mt19937 random(1);
    std::vector<int32_t> divisors;
    for (int32_t d = 1; d <= 300; ++d)
    {
        divisors.push_back(d);
    }
    for (int32_t power = 9; power < 31; ++power)
    {
        divisors.insert(divisors.end(), {(1 << power) - 1, 1 << power, (1 << power) + 1});
    }
    divisors.push_back(INT32_MAX);
    for (int32_t const d : divisors)
    {
        FastDivisor const fast = makeFastDivisor(d);
        std::vector<int32_t> numbers{0, 1, d - 1, d, INT32_MAX - 1, INT32_MAX};
        for (int32_t i = 0; i < 2000; ++i)
        {
            int32_t const multiple = static_cast<int32_t>(random() >> 1) / d * d;
            numbers.insert(numbers.end(), {static_cast<int32_t>(random() >> 1), multiple, multiple > 0 ? multiple - 1 : 0});
        }
        for (int32_t const n : numbers)
        {
            int32_t const quotient = fast.quotient(n);
            if (quotient != n / d || fast.remainder(n, quotient) != n % d)
            {
                std::printf("     %d / %d gives %d\n", n, d, quotient);
                return false;
            }
        }
    }
    return true;
}

//! Every chunk of a tile has a place of its own, and neither eight rows at a chunk nor a row's
//! eight chunks share a bank.
bool swizzleHasNoConflicts()
{
    constexpr int32_t kRows = 64;
    std::vector<int32_t> uses(kRows * kRowChunks, 0);
    for (int32_t row = 0; row < kRows; ++row)
    {
        uint32_t rowBanks = 0;
        for (int32_t chunk = 0; chunk < kRowChunks; ++chunk)
        {
            uint32_t const place = swizzled(row, chunk);
            if (place % 16 != 0 || place >= kRows * kRowBytes)
            {
                return false;
            }
            ++uses[place / 16];
            rowBanks |= 1U << (place / 16 % 8);
        }
        if (rowBanks != 0xffU)
        {
            return false;
        }
    }
    for (int32_t row = 0; row < kRows; row += 8)
    {
        for (int32_t chunk = 0; chunk < kRowChunks; ++chunk)
        {
            uint32_t banks = 0;
            for (int32_t i = 0; i < 8; ++i)
            {
                banks |= 1U << (swizzled(row + i, chunk) / 16 % 8);
            }
            if (banks != 0xffU)
            {
                return false;
            }
        }
    }
    for (int32_t const use : uses)
    {
        if (use != 1)
        {
            return false;
        }
    }
    return true;
}

//! The parts of a reduction follow each other without a gap, and none is empty.
bool splitsCoverTheReduction()
{
    for (int32_t steps = 1; steps < 200; ++steps)
    {
        for (int32_t parts = 1; parts <= smaller(steps, kMaxSplits); ++parts)
        {
            if (splitBegin(steps, 0, parts) != 0 || splitBegin(steps, parts, parts) != steps)
            {
                return false;
            }
            for (int32_t part = 0; part < parts; ++part)
            {
                if (splitBegin(steps, part, parts) >= splitBegin(steps, part + 1, parts))
                {
                    return false;
                }
            }
        }
    }
    return true;
}

//! Every part of every tile is one block's, and parts only exist where each has a slot.
bool scheduleFitsTheBlocks()
{
    for (int32_t rows = 0; rows < 3000; rows += 37)
    {
        for (int32_t tilesN = 1; tilesN < 6; ++tilesN)
        {
            for (int32_t const blocks : {1, 3, 132, 396})
            {
                Schedule const schedule = makeSchedule(rows, 64, tilesN, 18, blocks, kMaxSplits);
                std::vector<int32_t> seen(schedule.units, 0);
                for (int32_t unit = 0; unit < schedule.units; ++unit)
                {
                    Unit const u = decodeUnit(unit, schedule);
                    if (u.tile != u.tileM * tilesN + u.tileN || u.tileN >= tilesN || u.tileM * 64 >= rows
                        || u.split >= schedule.splits)
                    {
                        return false;
                    }
                    ++seen[u.tile * schedule.splits + u.split];
                }
                for (int32_t const count : seen)
                {
                    if (count != 1)
                    {
                        return false;
                    }
                }
                if (schedule.splits > 1 && schedule.units > blocks)
                {
                    return false;
                }
            }
        }
    }
    return true;
}

//! Segments' lists are a permutation of the cells; by rank, active cells come in ascending order,
//! and inactive ones segment by segment, each from its last place to its first: in ascending order,
//! too.
bool ranksFindEveryCell()
{
    std::mt19937 random(2);
    for (int32_t cells = 1; cells < 4000; cells += 37)
    {
        for (int32_t const density : {0, 1, 5, 9, 10})
        {
            for (int32_t const segmentCells : {8, 16, 24, 4000})
            {
                int32_t const segments = ceilDivide(cells, segmentCells);
                if (segments > kMaxSegments)
                {
                    continue;
                }
                std::vector<int32_t> list(cells, -1);
                std::vector<int32_t> before(segments, 0);
                std::vector<int32_t> active, inactive;
                for (int32_t segment = 0; segment < segments; ++segment)
                {
                    before[segment] = static_cast<int32_t>(active.size());
                    int32_t const first = segment * segmentCells;
                    int32_t const end = smaller(first + segmentCells, cells);
                    for (int32_t cell = first; cell < end; ++cell)
                    {
                        bool const on = static_cast<int32_t>(random() % 10) < density;
                        int32_t const activeBefore = static_cast<int32_t>(active.size()) - before[segment];
                        int32_t const place = listPlace(cell, first, end, activeBefore, on);
                        if (place < first || place >= end || list[place] != -1)
                        {
                            return false;
                        }
                        list[place] = cell;
                        (on ? active : inactive).push_back(cell);
                    }
                }
                auto const activeBefore = [&](int32_t segment) { return before[segment]; };
                for (size_t rank = 0; rank < active.size(); ++rank)
                {
                    if (list[placeOfActive(static_cast<int32_t>(rank), segments, segmentCells, activeBefore)] != active[rank])
                    {
                        return false;
                    }
                }
                for (size_t rank = 0; rank < inactive.size(); ++rank)
                {
                    int32_t const place = placeOfInactive(
                        static_cast<int32_t>(rank), segments, segmentCells, cells, activeBefore);
                    if (list[place] != inactive[rank])
                    {
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

//! Every unit of a launch is one block's, and blocks differ by at most one.
bool unitsAreShared()
{
    for (int32_t blocks = 1; blocks < 40; ++blocks)
    {
        for (int32_t units = 0; units < 200; ++units)
        {
            int32_t sum = 0;
            for (int32_t block = 0; block < blocks; ++block)
            {
                int32_t const own = unitsOf(block, blocks, units);
                if (own < units / blocks || own > ceilDivide(units, blocks))
                {
                    return false;
                }
                sum += own;
            }
            if (sum != units)
            {
                return false;
            }
        }
    }
    return true;
}

lccl_conv_params largeCall(int32_t n, int32_t side, int32_t channels)
{
    lccl_conv_params p{};
    p.abi = LCCL_CUDA_ABI;
    p.dtype = LCCL_FLOAT16;
    p.layout = LCCL_NHWC;
    p.n = n;
    p.c = channels;
    p.h = side;
    p.w = side;
    p.k = channels;
    p.r = p.s = 3;
    p.pads[0] = p.pads[1] = p.pads[2] = p.pads[3] = 1;
    for (int32_t i = 0; i < 2; ++i)
    {
        p.strides[i] = p.dilations[i] = p.gate_strides[i] = p.gate_dilations[i] = 1;
    }
    p.grid = 1;
    p.density = -1;
    return p;
}

//! Offsets beyond 2^31 elements, and the pixel under a tap of the last pixel of the last image.
bool largeOffsetsAreRight()
{
    lccl_conv_params const p = largeCall(32, 4000, 512);
    lccl_device const device{90, 132, 232448, 233472};
    lccl_conv_config const* const config = findConfiguration(configurationId(LCCL_PIXEL, LCCL_MMA, 1));
    if (!rejectCall(p).empty() || !rejectConfiguration(p, device, *config).empty())
    {
        return false;
    }
    Arguments const a = makePlan(p, device, *config, nullptr).arguments;
    int64_t const last = int64_t{32} * 4000 * 4000 - 1;
    Pixel const pixel = pixelOfIndex(a, static_cast<int32_t>(last));
    if (pixel.n != 31 || pixel.ho != 3999 || pixel.wo != 3999 || pixelIndex(a, pixel) != last
        || outputOffset(a, pixel) != last * 512)
    {
        return false;
    }
    Pixel const same = pixelOfCell(a, static_cast<int32_t>(last), 0);
    if (same.n != 31 || same.ho != 3999 || same.wo != 3999 || !same.valid)
    {
        return false;
    }
    uint32_t const bits = tapsOnInput(pixel.ho - 1, pixel.wo - 1, a.h, a.w, 1, 1);
    for (int32_t r = 0; r < 3; ++r)
    {
        for (int32_t s = 0; s < 3; ++s)
        {
            if (tapIsOnInput(bits, Tap{r, s, 0}) != (r < 2 && s < 2))
            {
                return false;
            }
        }
    }
    uint32_t const origin = static_cast<uint32_t>(3998) * 4000U + 3998U;
    uint32_t const under = static_cast<uint32_t>(31 * 4000 * 4000) + origin + tapDistance(a, Tap{1, 1, 0});
    return under == last && static_cast<int64_t>(under) * a.inputPitch == last * 512;
}

//! A tap above the map: the origin wraps around, and is right again for the taps that lie on it.
bool wrappedOriginsAreRight()
{
    lccl_conv_params const p = largeCall(1, 100, 8);
    lccl_device const device{90, 132, 232448, 233472};
    Arguments const a = makePlan(p, device, *findConfiguration(configurationId(LCCL_PIXEL, LCCL_MMA, 1)), nullptr).arguments;
    uint32_t const origin = static_cast<uint32_t>(-1) * 100U + static_cast<uint32_t>(-1);
    return tapsOnInput(-1, -1, 100, 100, 1, 1) == ((0x7eU << kTapColumns) | 0x7eU)
        && origin + tapDistance(a, Tap{1, 1, 0}) == 0;
}

bool hugeCallsAreRefused()
{
    for (int32_t const n : {1 << 8, 1 << 20, INT32_MAX})
    {
        if (rejectCall(largeCall(n, 4000, 64)).empty())
        {
            return false;
        }
    }
    lccl_conv_params wide = largeCall(1, 4, 64);
    wide.c = wide.k = INT32_MAX;
    lccl_conv_params padded = largeCall(1, 4, 64);
    padded.pads[0] = INT32_MAX;
    lccl_conv_params dilated = largeCall(1, 4, 64);
    dilated.dilations[0] = INT32_MAX;
    return !rejectCall(wide).empty() && !rejectCall(padded).empty() && !rejectCall(dilated).empty();
}

} // namespace

int main()
{
    report("division by multiplication is exact", divisionIsExact());
    report("a swizzled tile has no bank conflicts and loses nothing", swizzleHasNoConflicts());
    report("splits cover the reduction", splitsCoverTheReduction());
    report("a schedule gives each part of each tile to one block", scheduleFitsTheBlocks());
    report("ranks find every cell, in order", ranksFindEveryCell());
    report("units are shared among blocks", unitsAreShared());
    report("offsets beyond 2^31 elements are right", largeOffsetsAreRight());
    report("origins on the padding wrap around", wrappedOriginsAreRight());
    report("calls beyond 32-bit indices are refused", hugeCallsAreRefused());
    return failures == 0 ? 0 : 1;
}
