// Kernels that are right: their results, and that nothing is reported.

#include "selftest.h"

#include <cmath>
#include <limits>

namespace selftest
{
namespace
{

using lccl::Bfloat16;
using lccl::Half;

constexpr int32_t kSide = 64;

struct GemmArguments
{
    void const* a;      //!< T [64, 64]
    void const* b;      //!< T [64 columns, 64]
    float const* start; //!< [64, 64]
    float* c;           //!< [64, 64] = start + a * b
};

//! 64 x 64 x 64 in two stages of 32, four warps of 16 rows each.
template <typename T>
struct Gemm : Threads<128>
{
    static constexpr int32_t kDepth = 32;
    static constexpr int32_t kRowBytes = kDepth * 2;
    static constexpr int32_t kTileBytes = kSide * kRowBytes;
    static constexpr int32_t kSharedBytes = 4 * kTileBytes;

    static void copyStage(GemmArguments const& g, int32_t stage)
    {
        for (int32_t i = machine::threadIndex(); i < kSide * 4; i += kThreads)
        {
            int32_t const row = i / 4;
            int32_t const chunk = i % 4;
            uint32_t const place = machine::sharedBase() + stage * 2 * kTileBytes + row * kRowBytes + chunk * 16;
            int32_t const source = row * kSide + stage * kDepth + chunk * 8;
            machine::cpAsyncCa16(place, static_cast<T const*>(g.a) + source, 16);
            machine::cpAsyncCg16(place + kTileBytes, static_cast<T const*>(g.b) + source, 16);
        }
        machine::cpAsyncCommitGroup();
    }

    static void multiplyStage(float (&acc)[8][4], int32_t stage)
    {
        int32_t const lane = machine::threadIndex() % 32;
        int32_t const firstRow = machine::threadIndex() / 32 * 16;
        uint32_t const tileA = machine::sharedBase() + stage * 2 * kTileBytes;
        uint32_t const tileB = tileA + kTileBytes;
        for (int32_t k = 0; k < kDepth; k += 16)
        {
            uint32_t a[4];
            machine::ldmatrixX4(a, tileA + (firstRow + lane % 16) * kRowBytes + (k + lane / 16 * 8) * 2);
            for (int32_t column = 0; column < kSide; column += 16)
            {
                uint32_t b[4];
                int32_t const row = column + lane / 16 * 8 + lane % 8;
                machine::ldmatrixX4(b, tileB + row * kRowBytes + (k + lane / 8 % 2 * 8) * 2);
                machine::mmaM16N8K16<T>(acc[column / 8], a, b[0], b[1]);
                machine::mmaM16N8K16<T>(acc[column / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    static void run(GemmArguments const& g)
    {
        int32_t const lane = machine::threadIndex() % 32;
        int32_t const firstRow = machine::threadIndex() / 32 * 16;
        float acc[8][4];
        auto const place = [&](int32_t j, int32_t e)
        { return (firstRow + lane / 4 + e / 2 * 8) * kSide + j * 8 + lane % 4 * 2 + e % 2; };
        for (int32_t j = 0; j < 8; ++j)
        {
            for (int32_t e = 0; e < 4; ++e)
            {
                acc[j][e] = machine::loadConstant(g.start + place(j, e));
            }
        }
        copyStage(g, 0);
        copyStage(g, 1);
        machine::cpAsyncWaitGroup<1>();
        machine::syncThreads();
        multiplyStage(acc, 0);
        machine::cpAsyncWaitGroup<0>();
        machine::syncThreads();
        multiplyStage(acc, 1);
        for (int32_t j = 0; j < 8; ++j)
        {
            for (int32_t e = 0; e < 4; ++e)
            {
                machine::storeGlobal(g.c + place(j, e), acc[j][e]);
            }
        }
    }
};

//! Small integers, so that every sum is exact.
template <typename T>
void testGemm(char const* name, bool checked)
{
    struct alignas(16) Matrix
    {
        T value[kSide * kSide];
    };
    Matrix a;
    Matrix b;
    std::vector<float> start(kSide * kSide);
    std::vector<float> c(kSide * kSide, -1.0F);
    for (int32_t i = 0; i < kSide * kSide; ++i)
    {
        a.value[i] = machine::fromFloat<T>(static_cast<float>(i * 7 % 11 - 5));
        b.value[i] = machine::fromFloat<T>(static_cast<float>(i * 5 % 13 - 6));
        start[static_cast<size_t>(i)] = static_cast<float>(i % 17);
    }
    lccl_emulator_begin(3, checked ? 1 : 0);
    lccl_emulator_register(&a, sizeof(a), LCCL_EMULATOR_READ_ONLY, "a");
    lccl_emulator_register(&b, sizeof(b), LCCL_EMULATOR_READ_ONLY, "b");
    lccl_emulator_register(start.data(), start.size() * 4, LCCL_EMULATOR_READ_ONLY, "start");
    lccl_emulator_register(c.data(), c.size() * 4, LCCL_EMULATOR_COMPLETE_OUTPUT, "c");
    GemmArguments const arguments{&a, &b, start.data(), c.data()};
    cudaError_t const error = machine::launch<Gemm<T>>(arguments, 1, Gemm<T>::kSharedBytes, nullptr);
    char report[4096];
    int32_t const faults = lccl_emulator_finish(report, sizeof(report));
    int32_t wrong = 0;
    for (int32_t row = 0; row < kSide; ++row)
    {
        for (int32_t column = 0; column < kSide; ++column)
        {
            double sum = start[static_cast<size_t>(row * kSide + column)];
            for (int32_t k = 0; k < kSide; ++k)
            {
                sum += static_cast<double>(machine::toFloat(a.value[row * kSide + k]))
                    * machine::toFloat(b.value[column * kSide + k]);
            }
            wrong += c[static_cast<size_t>(row * kSide + column)] == sum ? 0 : 1;
        }
    }
    check(error == cudaSuccess && faults == 0 && wrong == 0, name, std::to_string(wrong) + " wrong elements; " + report);
}

//! Sums over warps by shuffles, masks by ballot, sums over the block through shared memory.
struct WarpOperations : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t const thread = machine::threadIndex();
        int32_t sum = machine::loadConstant(a.input + thread);
        float product = thread % 32 < 3 ? 2.0F : 1.0F;
        for (int32_t mask = 16; mask > 0; mask /= 2)
        {
            sum += machine::shuffleXor(sum, mask);
            product *= machine::shuffleXor(product, mask);
        }
        uint32_t const thirds = machine::ballot(thread % 3 == 0);
        if (thread % 32 == 0)
        {
            machine::storeShared(machine::sharedBase() + thread / 32 * 4, sum);
        }
        machine::syncThreads();
        int32_t const other = machine::loadShared<int32_t>(machine::sharedBase() + (1 - thread / 32) * 4);
        machine::storeGlobal(a.output + thread * 4, sum);
        machine::storeGlobal(a.output + thread * 4 + 1, static_cast<int32_t>(thirds));
        machine::storeGlobal(a.output + thread * 4 + 2, static_cast<int32_t>(product) * 100 + machine::popcount(thirds));
        int32_t const beside = machine::shuffle(thread, (thread * 5 + 3) % 32); // another lane for each
        machine::storeGlobal(a.output + thread * 4 + 3, other * 100 + beside);
    }
};

void testWarpOperations()
{
    Run run(1, true, LCCL_EMULATOR_COMPLETE_OUTPUT);
    run.launch<WarpOperations>(1, 8);
    Outcome const outcome = run.finish();
    int32_t wrong = 0;
    for (int32_t thread = 0; thread < 64; ++thread)
    {
        int32_t const warp = thread / 32;
        uint32_t thirds = 0;
        for (int32_t lane = 0; lane < 32; ++lane)
        {
            thirds |= (warp * 32 + lane) % 3 == 0 ? 1U << lane : 0U;
        }
        int32_t const* const got = run.output.value + thread * 4;
        int32_t const sums[2] = {31 * 32 / 2, 31 * 32 / 2 + 32 * 32};
        bool const right = got[0] == sums[warp] && static_cast<uint32_t>(got[1]) == thirds
            && got[2] == 800 + __builtin_popcount(thirds) && got[3] == sums[1 - warp] * 100 + warp * 32 + (thread * 5 + 3) % 32;
        wrong += right ? 0 : 1;
    }
    check(outcome.faults == 0 && wrong == 0, "shuffles, ballot, popcount",
        std::to_string(wrong) + " wrong threads; " + outcome.report);
}

//! A copy of 6 bytes: the others become zero. A copy of none needs no source.
struct PartialCopies : Threads<32>
{
    static void run(Arguments const& a)
    {
        uint32_t const own = machine::sharedBase() + machine::threadIndex() * 32;
        machine::cpAsyncCa16(own, a.input + machine::threadIndex() * 4, 6);
        machine::cpAsyncCg16(own + 16, nullptr, 0);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
        for (int32_t i = 0; i < 8; ++i)
        {
            machine::storeGlobal(a.output + machine::threadIndex() * 8 + i, machine::loadShared<int32_t>(own + i * 4));
        }
    }
};

void testPartialCopies()
{
    for (bool const checked : {true, false})
    {
        Run run(1, checked, LCCL_EMULATOR_COMPLETE_OUTPUT);
        run.launch<PartialCopies>(1, kSharedBytes);
        Outcome const outcome = run.finish();
        int32_t wrong = 0;
        for (int32_t i = 0; i < kInts; ++i)
        {
            int32_t const first = i / 8 * 4;
            wrong += run.output.value[i] == (i % 8 < 2 ? first + i % 8 : 0) ? 0 : 1;
        }
        check(outcome.faults == 0 && wrong == 0, checked ? "partial copies" : "partial copies, unchecked",
            std::to_string(wrong) + " wrong; " + outcome.report);
    }
}

struct ZeroCounter : Threads<32>
{
    static void run(Arguments const& a)
    {
        if (machine::threadIndex() == 0)
        {
            machine::storeGlobal(a.scratch, 0);
        }
    }
};

//! Which block came when, and which thread in it.
struct Tickets : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t const ticket = machine::atomicAddGlobal(a.scratch, 1);
        machine::storeGlobal(a.output + machine::blockIndex() * kThreads + machine::threadIndex(), ticket);
    }
};

void testOrder()
{
    std::vector<std::vector<int32_t>> orders;
    for (uint64_t const seed : {1, 1, 2})
    {
        Run run(seed, true, LCCL_EMULATOR_COMPLETE_OUTPUT);
        run.launch<ZeroCounter>(1, 0);
        run.launch<Tickets>(4, 0);
        Outcome const outcome = run.finish();
        check(outcome.faults == 0 && run.scratch.value[0] == kInts, "atomic additions of all blocks", outcome.report);
        orders.emplace_back(run.output.value, run.output.value + kInts);
    }
    check(orders[0] == orders[1], "the same seed gives the same order", "orders differ");
    check(orders[0] != orders[2], "another seed gives another order", "orders are the same");
    int32_t blocks = 0; // Neighbours in time that are out of order, of each kind.
    int32_t warps = 0;
    int32_t lanes = 0;
    for (int32_t i = 1; i < kInts; ++i)
    {
        bool const earlier = orders[0][static_cast<size_t>(i)] < orders[0][static_cast<size_t>(i) - 1];
        lanes += i % 32 != 0 && earlier ? 1 : 0;
    }
    for (auto const& order : {orders[0], orders[2]})
    {
        for (size_t i = 0; i < kInts; i += 64)
        {
            warps += order[i + 32] < order[i] ? 1 : 0;
            blocks += i > 0 && order[i] < order[i - 64] ? 1 : 0;
        }
    }
    check(lanes > 0, "lanes take turns in the seed's order", "they are ascending");
    check(warps > 0 && warps < 8, "warps take turns in the seed's order", std::to_string(warps) + " of 8 are turned");
    check(blocks > 0 && blocks < 6, "blocks run in the seed's order", std::to_string(blocks) + " of 6 are turned");
}

//! Writes what shared memory holds at first, and then something else into it.
struct ReadJunk : Threads<32>
{
    static void run(Arguments const& a)
    {
        uint32_t const own = machine::sharedBase() + machine::threadIndex() * 4;
        machine::storeGlobal(
            a.output + machine::blockIndex() * kThreads + machine::threadIndex(), machine::loadShared<int32_t>(own));
        machine::storeShared(own, 5);
    }
};

void testJunk()
{
    Run run(1, false, LCCL_EMULATOR_OUTPUT);
    run.launch<ReadJunk>(kInts / 32, 128);
    int32_t wrong = 0;
    for (int32_t i = 0; i < kInts; ++i)
    {
        wrong += std::isnan(machine::floatFromBits(static_cast<uint32_t>(run.output.value[i]))) ? 0 : 1;
    }
    check(wrong == 0, "shared memory is NaN at first", std::to_string(wrong) + " are not");
}

void testConversions()
{
    float const infinity = std::numeric_limits<float>::infinity();
    auto const half = [](float value) { return machine::fromFloat<Half>(value).bits; };
    auto const bfloat = [](float value) { return machine::fromFloat<Bfloat16>(value).bits; };
    check(half(1.0F) == 0x3c00 && half(-2.0F) == 0xc000 && half(65504.0F) == 0x7bff, "Half of exact values", "wrong bits");
    check(half(1.0F + 0x1p-11F) == 0x3c00 && half(1.0F + 3 * 0x1p-11F) == 0x3c02, "Half rounds ties to even", "wrong bits");
    check(half(65520.0F) == 0x7c00 && half(infinity) == 0x7c00 && half(-1e9F) == 0xfc00, "Half overflows to infinity",
        "wrong bits");
    check(half(0x1p-24F) == 1 && half(0x1p-26F) == 0, "Half has subnormals", "wrong bits");
    check(std::isnan(machine::toFloat(Half{half(std::nanf(""))})), "Half keeps NaN", "a number");
    check(machine::toFloat(Half{0x0001}) == 0x1p-24F && machine::toFloat(Half{0xfbff}) == -65504.0F, "floats of Half", "wrong");
    check(bfloat(1.0F) == 0x3f80 && bfloat(1.0F + 0x1p-8F) == 0x3f80 && bfloat(1.0F + 3 * 0x1p-8F) == 0x3f82,
        "Bfloat16 rounds ties to even", "wrong bits");
    check(bfloat(std::numeric_limits<float>::max()) == 0x7f80 && bfloat(-infinity) == 0xff80, "Bfloat16 overflows to infinity",
        "wrong bits");
    check(
        std::isnan(machine::toFloat(Bfloat16{bfloat(machine::floatFromBits(0x7f800001U))})), "Bfloat16 keeps NaN", "a number");
    check(machine::toFloat(Bfloat16{0x4049}) == 3.140625F, "floats of Bfloat16", "wrong");
}

} // namespace

void testResults()
{
    testGemm<Half>("64 x 64 x 64 product of Half", true);
    testGemm<Bfloat16>("64 x 64 x 64 product of Bfloat16", true);
    testGemm<Half>("64 x 64 x 64 product of Half, unchecked", false);
    testWarpOperations();
    testPartialCopies();
    testOrder();
    testJunk();
    testConversions();
}

} // namespace selftest
