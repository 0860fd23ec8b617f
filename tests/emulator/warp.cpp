// What the 32 lanes of a warp do together, by the PTX ISA's definitions.

#include "block.h"

#include <cstring>

namespace lccl::emulator
{
namespace
{

//! float32 of every binary16.
struct HalfTable
{
    float value[1 << 16];

    HalfTable()
    {
        for (uint32_t i = 0; i < (1U << 16); ++i)
        {
            auto const bits = static_cast<uint16_t>(i);
            _Float16 half;
            std::memcpy(&half, &bits, sizeof(half));
            value[i] = static_cast<float>(half);
        }
    }
};
HalfTable const halves;

void performShuffle(Warp& warp)
{
    uint32_t values[kLanes];
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        values[lane] = warp.slots[lane].value;
    }
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        warp.slots[lane].value = values[(lane ^ warp.slots[lane].mask) % kLanes];
    }
}

void performBallot(Warp& warp)
{
    uint32_t mask = 0;
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        mask |= warp.slots[lane].value << lane;
    }
    for (Slot& slot : warp.slots)
    {
        slot.value = mask;
    }
}

//! ldmatrix.x4: lane l names row l % 8 of matrix l / 8 and gets elements 2 * (l % 4) and the next
//! of row l / 4 of each.
void performLdmatrix(Warp& warp)
{
    constexpr int32_t kRows = 8;
    constexpr int32_t kRowBytes = 16;
    unsigned char rows[kLanes][kRowBytes];
    for (Fiber* const fiber : warp.turns)
    {
        uint32_t const address = warp.slots[fiber->lane()].value;
        if (reachesShared(address, kRowBytes))
        {
            std::memcpy(rows[fiber->lane()], fast.shared + (address - kSharedBase), kRowBytes);
        }
        else
        {
            readSharedBy(*fiber, rows[fiber->lane()], address, kRowBytes);
        }
    }
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        for (int32_t matrix = 0; matrix < 4; ++matrix)
        {
            std::memcpy(&warp.slots[lane].fragment[matrix], rows[matrix * kRows + lane / 4] + lane % 4 * 4, 4);
        }
    }
}

template <bool kHalf>
float elementOf(uint32_t word, int32_t index)
{
    auto const bits = static_cast<uint16_t>(word >> (16 * index));
    if constexpr (kHalf)
    {
        return halves.value[bits];
    }
    uint32_t const wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
}

//! mma.m16n8k16. With g = lane / 4 and t = 2 * (lane % 4), a lane holds
//! A: rows g, g + 8, g, g + 8 and columns t, t, t + 8, t + 8, each with the next column;
//! B: rows t and t + 8, each with the next row, of column g;
//! C: rows g, g, g + 8, g + 8 and columns t, t + 1, t, t + 1.
template <bool kHalf>
void performMma(Warp& warp)
{
    using Four = float __attribute__((vector_size(16)));
    float a[16][16];
    alignas(16) float b[16][8];
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        Slot const& slot = warp.slots[lane];
        int32_t const g = lane / 4;
        int32_t const t = lane % 4 * 2;
        for (int32_t e = 0; e < 2; ++e)
        {
            a[g][t + e] = elementOf<kHalf>(slot.a[0], e);
            a[g + 8][t + e] = elementOf<kHalf>(slot.a[1], e);
            a[g][t + 8 + e] = elementOf<kHalf>(slot.a[2], e);
            a[g + 8][t + 8 + e] = elementOf<kHalf>(slot.a[3], e);
            b[t + e][g] = elementOf<kHalf>(slot.b0, e);
            b[t + 8 + e][g] = elementOf<kHalf>(slot.b1, e);
        }
    }
    alignas(16) float sums[16][8];
    for (int32_t row = 0; row < 16; ++row)
    {
        Four low = {};
        Four high = {};
        for (int32_t k = 0; k < 16; ++k)
        {
            auto const* const line = reinterpret_cast<Four const*>(b[k]);
            low += line[0] * a[row][k];
            high += line[1] * a[row][k];
        }
        std::memcpy(sums[row], &low, sizeof(low));
        std::memcpy(sums[row] + 4, &high, sizeof(high));
    }
    for (int32_t lane = 0; lane < kLanes; ++lane)
    {
        float* const c = warp.slots[lane].c;
        for (int32_t e = 0; e < 4; ++e)
        {
            c[e] += sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
        }
    }
}

} // namespace

float floatOfHalf(uint16_t bits)
{
    return halves.value[bits];
}

uint16_t halfOfFloat(float value)
{
    auto const half = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof(bits));
    return bits;
}

void perform(Warp& warp)
{
    switch (warp.operation)
    {
    case Operation::kSyncWarp: break;
    case Operation::kShuffleFloat:
    case Operation::kShuffleInt:
    case Operation::kShuffleLane: performShuffle(warp); break;
    case Operation::kBallot: performBallot(warp); break;
    case Operation::kLdmatrix: performLdmatrix(warp); break;
    case Operation::kMmaHalf: performMma<true>(warp); break;
    case Operation::kMmaBfloat16: performMma<false>(warp); break;
    }
}

} // namespace lccl::emulator
