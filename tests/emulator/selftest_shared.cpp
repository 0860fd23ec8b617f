// One faulty kernel for each fault of shared memory, each beside the kernel that does it right.

#include "selftest.h"

namespace selftest
{
namespace
{

using lccl::Vec16;
using lccl::Vec8;

int32_t thread()
{
    return machine::threadIndex();
}

//! Place of a thread's 4 bytes.
uint32_t place(int32_t ofThread)
{
    return machine::sharedBase() + static_cast<uint32_t>(ofThread) * 4;
}

struct ReadBehind : Threads<64>
{
    static void run(Arguments const&)
    {
        machine::storeShared(place(thread()), thread());
        machine::storeShared(place(thread() + 64), thread());
        machine::loadShared<int32_t>(place(thread() + (thread() == 63 ? kSharedBytes / 4 - 63 : 0)));
    }
};

struct WriteBehind : Threads<64>
{
    static void run(Arguments const&)
    {
        machine::storeShared(place(thread() + kSharedBytes / 4 - 63), thread());
    }
};

//! An address that lost its base.
struct WriteAtZero : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::storeShared(static_cast<uint32_t>(thread()) * 4, thread());
    }
};

struct ReadMisaligned : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::storeShared(machine::sharedBase() + thread() * 16, Vec16{{0, 0, 0, 0}});
        machine::loadShared<Vec8>(machine::sharedBase() + thread() * 16 + 4);
    }
};

struct WriteMisaligned : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::storeShared(machine::sharedBase() + thread() * 16 + 8, Vec16{{0, 0, 0, 0}});
    }
};

struct ReadUnwritten : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::storeShared(place(thread() * 2), thread());
        machine::loadShared<Vec8>(place(thread() * 2));
    }
};

//! What another block has left there is not this block's.
struct ReadOfFirstBlock : Threads<32>
{
    static void run(Arguments const&)
    {
        if (machine::blockIndex() == 0)
        {
            machine::storeShared(place(thread()), 1);
        }
        else
        {
            machine::loadShared<int32_t>(place(thread()));
        }
    }
};

enum class Barrier
{
    kNone,
    kWarp,
    kBallot,
    kBlock
};

template <Barrier kBarrier>
void synchronise()
{
    if constexpr (kBarrier == Barrier::kWarp)
    {
        machine::syncWarp();
    }
    else if constexpr (kBarrier == Barrier::kBallot)
    {
        machine::ballot(true);
    }
    else if constexpr (kBarrier == Barrier::kBlock)
    {
        machine::syncThreads();
    }
}

//! Each thread reads what the one `kDistance` away wrote.
template <Barrier kBarrier, int32_t kDistance>
struct ReadOther : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeShared(place(thread()), -1);
        machine::syncThreads();
        machine::storeShared(place(thread()), thread());
        synchronise<kBarrier>();
        machine::storeGlobal(a.output + thread(), machine::loadShared<int32_t>(place(thread() ^ kDistance)));
    }
};

//! Each thread writes what the one `kDistance` away has read.
template <Barrier kBarrier, int32_t kDistance>
struct OverwriteOther : Threads<64>
{
    static void run(Arguments const&)
    {
        machine::storeShared(place(thread()), thread());
        machine::syncThreads();
        machine::loadShared<int32_t>(place(thread()));
        synchronise<kBarrier>();
        machine::storeShared(place(thread() ^ kDistance), thread());
    }
};

//! All threads read; one writes.
template <Barrier kBarrier>
struct OverwriteBroadcast : Threads<64>
{
    static void run(Arguments const&)
    {
        if (thread() == 5)
        {
            machine::storeShared(place(0), 1);
        }
        machine::syncThreads();
        machine::loadShared<int32_t>(place(0));
        synchronise<kBarrier>();
        if (thread() == 5)
        {
            machine::storeShared(place(0), 2);
        }
    }
};

//! Two threads write the same bytes.
template <Barrier kBarrier, int32_t kDistance>
struct WriteBoth : Threads<64>
{
    static void run(Arguments const&)
    {
        machine::storeShared(place(thread()), thread());
        synchronise<kBarrier>();
        machine::storeShared(place(thread() ^ kDistance), thread());
    }
};

//! Row of a matrix for each lane, 16 bytes.
template <Barrier kBarrier>
struct LoadMatrices : Threads<32>
{
    static void run(Arguments const&)
    {
        uint32_t const lane = static_cast<uint32_t>(thread());
        machine::storeShared(machine::sharedBase() + (lane ^ 1) * 16, Vec16{{lane, lane, lane, lane}});
        synchronise<kBarrier>();
        uint32_t fragment[4];
        machine::ldmatrixX4(fragment, machine::sharedBase() + lane * 16);
        machine::storeShared(machine::sharedBase() + (lane ^ 2) * 16, Vec16{{lane, lane, lane, lane}});
    }
};

struct LoadMatricesMisaligned : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::storeShared(machine::sharedBase() + thread() * 16, Vec16{{0, 0, 0, 0}});
        machine::syncWarp();
        uint32_t fragment[4];
        machine::ldmatrixX4(fragment, machine::sharedBase() + thread() * 8 + 8);
    }
};

struct LoadMatricesBehind : Threads<32>
{
    static void run(Arguments const&)
    {
        uint32_t fragment[4];
        machine::ldmatrixX4(fragment, machine::sharedBase() + kSharedBytes + thread() * 16);
    }
};

void testSharedAccess()
{
    Expectation outside{"out of bounds"};
    outside.words = "thread 63: reads 4 bytes at offset 1024 of shared memory; the block has 1024 bytes";
    expect<ReadBehind>("a read one element behind shared memory", outside);
    outside.words = "thread 63: writes 4 bytes at offset 1024 of shared memory";
    expect<WriteBehind>("a write one element behind shared memory", outside);
    expect<WriteAtZero>("a shared address without its base", {"out of bounds"});
    expect<ReadMisaligned>("a misaligned read of shared memory", {"misaligned"});
    expect<WriteMisaligned>("a misaligned write of shared memory", {"misaligned"});
    expect<LoadMatricesMisaligned>("a misaligned row of a matrix", {"misaligned"});
    expect<LoadMatricesBehind>("a matrix behind shared memory", {"out of bounds"});
    expect<ReadUnwritten>("shared memory that is half written", {"uninitialised"});
    Expectation two{"uninitialised"};
    two.blocks = 2;
    two.words = "block 1";
    expect<ReadOfFirstBlock>("shared memory that only another block has written", two);
}

void testRaces()
{
    expect<ReadOther<Barrier::kBlock, 33>>("a read of another warp's bytes after syncThreads", {nullptr});
    expect<ReadOther<Barrier::kWarp, 1>>("a read of another lane's bytes after syncWarp", {nullptr});
    expect<ReadOther<Barrier::kBallot, 1>>("a read of another lane's bytes after a ballot", {nullptr});
    expect<ReadOther<Barrier::kNone, 0>>("a read of a thread's own bytes", {nullptr});
    expect<ReadOther<Barrier::kNone, 1>>("a read of another lane's bytes without a barrier", {"race"});
    expect<ReadOther<Barrier::kNone, 33>>("a read of another warp's bytes without a barrier", {"race"});
    expect<ReadOther<Barrier::kWarp, 33>>("a read of another warp's bytes after syncWarp only", {"race"});
    expect<OverwriteOther<Barrier::kBlock, 33>>("a write of what another warp read, after syncThreads", {nullptr});
    expect<OverwriteOther<Barrier::kWarp, 1>>("a write of what another lane read, after syncWarp", {nullptr});
    expect<OverwriteOther<Barrier::kNone, 1>>("a write of what another lane reads, without a barrier", {"race"});
    expect<OverwriteOther<Barrier::kWarp, 33>>("a write of what another warp reads, after syncWarp only", {"race"});
    expect<OverwriteBroadcast<Barrier::kBlock>>("a write of what all have read, after syncThreads", {nullptr});
    expect<OverwriteBroadcast<Barrier::kWarp>>("a write of what all read, after syncWarp only", {"race"});
    expect<WriteBoth<Barrier::kBlock, 33>>("two writes with syncThreads between", {nullptr});
    expect<WriteBoth<Barrier::kWarp, 1>>("two writes of a warp with syncWarp between", {nullptr});
    expect<WriteBoth<Barrier::kNone, 1>>("two writes without a barrier", {"race"});
    expect<WriteBoth<Barrier::kWarp, 33>>("two writes of two warps with syncWarp between", {"race"});
    expect<LoadMatrices<Barrier::kWarp>>("a matrix that other lanes wrote, after syncWarp", {nullptr});
    expect<LoadMatrices<Barrier::kNone>>("a matrix that other lanes write, without a barrier", {"race"});
}

} // namespace

void testSharedFaults()
{
    testSharedAccess();
    testRaces();
}

} // namespace selftest
