// One faulty kernel for each fault of asynchronous copies, each beside the kernel that does it
// right.

#include "selftest.h"

namespace selftest
{
namespace
{

using lccl::Vec16;

int32_t thread()
{
    return machine::threadIndex();
}

uint32_t place(int32_t chunk)
{
    return machine::sharedBase() + static_cast<uint32_t>(chunk) * 16;
}

void copy(Arguments const& a, int32_t chunk)
{
    machine::cpAsyncCg16(place(chunk), a.input + thread() % 32 * 4, 16);
}

//! Copies 16 bytes a thread and reads those of a thread of another warp.
template <bool kWait, bool kBarrier, int32_t kDistance>
struct CopyAndRead : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeShared(place(thread()), Vec16{{0, 0, 0, 0}});
        machine::syncThreads();
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        if (kWait)
        {
            machine::cpAsyncWaitGroup<0>();
        }
        if (kBarrier)
        {
            machine::syncThreads();
        }
        int32_t const value = machine::loadShared<int32_t>(place(thread() ^ kDistance));
        machine::storeGlobal(a.output + thread(), value);
        machine::syncThreads();
        machine::cpAsyncWaitGroup<0>();
    }
};

//! A barrier before the wait says nothing of what lands in it.
struct BarrierBeforeWait : Threads<64>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        machine::syncThreads();
        machine::cpAsyncWaitGroup<0>();
        machine::loadShared<int32_t>(place(thread() ^ 33));
    }
};

//! Two groups, of which the older is waited for; reads the one of `kRead`.
template <int32_t kRead>
struct TwoGroups : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        copy(a, thread() + 32);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<1>();
        machine::loadShared<Vec16>(place(thread() + kRead * 32));
        machine::cpAsyncWaitGroup<0>();
    }
};

//! The copy belongs to no group when all groups are waited for.
struct WaitBeforeCommit : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncWaitGroup<0>();
        machine::loadShared<Vec16>(place(thread()));
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct WriteUnderCopy : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::storeShared(place(thread()) + 8, 1);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct CopyOntoCopy : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct LoadMatricesUnderCopy : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        uint32_t fragment[4];
        machine::ldmatrixX4(fragment, place(thread()));
        machine::cpAsyncWaitGroup<0>();
    }
};

//! Writes again where another warp may still be reading.
template <bool kBarrier>
struct CopyOntoRead : Threads<64>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
        machine::syncThreads();
        machine::loadShared<Vec16>(place(thread()));
        if (kBarrier)
        {
            machine::syncThreads();
        }
        copy(a, thread() ^ 33);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct NeverWaits : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncCommitGroup();
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<2>();
    }
};

struct NeverCommits : Threads<32>
{
    static void run(Arguments const& a)
    {
        copy(a, thread());
        machine::cpAsyncWaitGroup<0>();
    }
};

template <int32_t kBytes>
struct CopyOfSize : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCa16(place(thread()), a.input + thread() * 4, kBytes);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct DestinationMisaligned : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCa16(place(thread()) + 8, a.input, 0);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct DestinationBehind : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCa16(place(thread() + 1), a.input, 0);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct SourceMisaligned : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCa16(place(thread()), a.input + thread() * 4 + 2, 8);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

//! Of the chunk behind the tensor, `kBytes` bytes are read.
template <int32_t kBytes>
struct SourceBehind : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCa16(place(thread()), a.input + kInts - 32 * 4 + (thread() + 1) * 4, thread() == 31 ? kBytes : 16);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

//! A copy through L1 of what this launch has written.
struct CopyOfThisLaunch : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(reinterpret_cast<Vec16*>(a.scratch) + thread(), Vec16{{1, 2, 3, 4}});
        machine::fenceDevice();
        machine::cpAsyncCa16(place(thread()), a.scratch + thread() * 4, 16);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

struct CopyOfUnwritten : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::cpAsyncCg16(place(thread()), a.scratch + thread() * 4, 16);
        machine::cpAsyncCommitGroup();
        machine::cpAsyncWaitGroup<0>();
    }
};

} // namespace

void testCopyFaults()
{
    expect<CopyAndRead<true, true, 33>>("a copy, its wait, a barrier, a read", {nullptr});
    expect<CopyAndRead<true, false, 0>>("a copy, its wait, its own thread's read", {nullptr});
    expect<CopyAndRead<false, true, 33>>("a copy without its wait", {"copy under way"});
    expect<CopyAndRead<false, false, 0>>("a copy without its wait, read by its own thread", {"copy under way"});
    expect<CopyAndRead<true, false, 1>>("a copy and its wait without a barrier", {"race"});
    Expectation early{"race"};
    early.also = "copy under way"; // Where the reader comes first.
    expect<BarrierBeforeWait>("a barrier before the wait", early);
    expect<TwoGroups<0>>("the older of two groups", {nullptr});
    expect<TwoGroups<1>>("the newer of two groups, not waited for", {"copy under way"});
    expect<WaitBeforeCommit>("a wait before the group is closed", {"copy under way"});
    expect<WriteUnderCopy>("a write under a copy", {"copy under way"});
    expect<CopyOntoCopy>("a copy onto a copy", {"copy under way"});
    expect<LoadMatricesUnderCopy>("a matrix under a copy", {"copy under way"});
    expect<CopyOntoRead<true>>("a copy onto what was read, after a barrier", {nullptr});
    expect<CopyOntoRead<false>>("a copy onto what another warp reads", {"race"});
    Expectation left{"copy not waited for"};
    left.words = "ends with 1 copies under way";
    expect<NeverWaits>("a copy never waited for", left);
    left.words = "whose group it never closed";
    expect<NeverCommits>("a group never closed", left);
    expect<CopyOfSize<16>>("a copy of 16 bytes", {nullptr});
    expect<CopyOfSize<17>>("a copy of 17 bytes", {"bad argument"});
    expect<CopyOfSize<-1>>("a copy of -1 bytes", {"bad argument"});
    expect<DestinationMisaligned>("a misaligned destination", {"misaligned"});
    expect<DestinationBehind>("a destination behind shared memory", {"out of bounds"});
    expect<SourceMisaligned>("a misaligned source", {"misaligned"});
    expect<SourceBehind<0>>("an empty copy from behind a tensor", {nullptr});
    expect<SourceBehind<2>>("a copy from behind a tensor", {"out of bounds"});
    expect<CopyOfThisLaunch>("a copy of what this launch wrote", {"stale"});
    expect<CopyOfUnwritten>("a copy of what nothing has written", {"uninitialised"});
}

} // namespace selftest
