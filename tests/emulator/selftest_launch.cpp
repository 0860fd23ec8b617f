// Faults of global memory that threads and blocks of one launch make together, each beside the
// kernel that does it right.

#include "selftest.h"

namespace selftest
{
namespace
{

int32_t thread()
{
    return machine::threadIndex();
}

//! Element of a tensor of blocks of 64 threads.
int32_t element()
{
    return machine::blockIndex() * 64 + machine::threadIndex();
}

struct WriteScratch : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + element(), element());
    }
};

struct ReadConstantAfterWrite : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + thread(), 1);
        machine::loadConstant(a.scratch + thread());
    }
};

struct WriteAfterReadConstant : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t const value = machine::loadConstant(a.scratch + element());
        machine::storeGlobal(a.scratch + element(), value + 1);
    }
};

struct ExchangeInBlock : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + element(), 1);
        machine::syncThreads();
        machine::storeGlobal(a.output + element(), machine::loadGlobal(a.scratch + (element() ^ 33)));
    }
};

struct ExchangeWithoutBarrier : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + element(), 1);
        machine::syncWarp(); // Lanes of other warps do not wait here.
        if (machine::shuffleXor(thread(), 1) < 32)
        {
            machine::storeGlobal(a.scratch + element() + 32, 2);
        }
    }
};

struct OverwriteWhatIsRead : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::loadGlobal(a.scratch + (element() ^ 33));
        machine::syncWarp();
        if (thread() < 32)
        {
            machine::storeGlobal(a.scratch + element(), 2);
        }
    }
};

struct SetCounter : Threads<32>
{
    static void run(Arguments const& a)
    {
        if (machine::blockIndex() == 0)
        {
            machine::storeGlobal(a.scratch + thread(), 0);
        }
    }
};

enum class Missing
{
    kNothing,
    kFenceOfWriter,
    kBarrier,
    kFenceOfReader
};

//! The last block to arrive adds up what all have written. One warp writes and another counts:
//! where they take their turns in that order, only what is not there tells that the count is too
//! early.
template <Missing kMissing>
struct JoinBlocks : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t* const parts = a.scratch + 32;
        machine::syncThreads(); // This one orders nothing that matters.
        if (thread() >= 32)
        {
            machine::storeGlobal(parts + machine::blockIndex() * 32 + thread() - 32, thread());
        }
        if (kMissing != Missing::kFenceOfWriter)
        {
            machine::fenceDevice();
        }
        if (kMissing != Missing::kBarrier)
        {
            machine::syncThreads();
        }
        if (thread() == 0)
        {
            machine::storeShared(machine::sharedBase(), machine::atomicAddGlobal(a.scratch, 1));
        }
        machine::syncThreads();
        if (machine::loadShared<int32_t>(machine::sharedBase()) == machine::gridSize() - 1)
        {
            if (kMissing != Missing::kFenceOfReader)
            {
                machine::fenceDevice();
            }
            int32_t sum = 0;
            for (int32_t block = 0; block < machine::gridSize(); ++block)
            {
                sum += machine::loadGlobal(parts + block * 32 + thread() % 32);
            }
            machine::storeGlobal(a.output + thread(), sum);
        }
    }
};

//! A fence before the write orders nothing after it.
struct FenceTooEarly : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::fenceDevice();
        if (machine::atomicAddGlobal(a.scratch + thread(), 1) == 0)
        {
            machine::storeGlobal(a.scratch + 32 + thread(), 1);
        }
        else
        {
            machine::loadGlobal(a.scratch + 32 + thread());
        }
    }
};

//! The block that comes second reads what the first has written, as a constant.
struct ReadOtherBlockAsConstant : Threads<32>
{
    static void run(Arguments const& a)
    {
        if (machine::atomicAddGlobal(a.scratch + thread(), 1) == 0)
        {
            machine::storeGlobal(a.scratch + 32 + thread(), 1);
            machine::fenceDevice();
        }
        else
        {
            machine::loadConstant(a.scratch + 32 + thread());
        }
    }
};

struct TwoBlocksWrite : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + thread(), 1);
    }
};

struct TwoBlocksWriteOutput : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.output + machine::blockIndex() * 31 + thread(), 1);
    }
};

} // namespace

void testLaunchFaults()
{
    Expectation two{nullptr};
    two.blocks = 2;
    expect<ReadConstantAfterWrite>("loadConstant of what this launch wrote", {"stale"});
    expect<WriteScratch, WriteAfterReadConstant>("a write of what this launch read by loadConstant", {"stale"});
    expect<ExchangeInBlock>("an exchange through global memory with a barrier", {nullptr});
    expect<ExchangeWithoutBarrier>("two writes with no barrier between", {"race"});
    expect<WriteScratch, OverwriteWhatIsRead>("a write of what another warp reads", {"race"});
    expect<SetCounter, JoinBlocks<Missing::kNothing>>("blocks that join by a counter", two);
    two.fault = "missing fence";
    two.words = "it must call fenceDevice";
    expect<SetCounter, JoinBlocks<Missing::kFenceOfWriter>>("blocks that join without a fence of the writers", two);
    expect<SetCounter, JoinBlocks<Missing::kBarrier>>("a count before all threads of the block have written", two);
    two.words = "the reader must call fenceDevice";
    expect<SetCounter, JoinBlocks<Missing::kFenceOfReader>>("blocks that join without a fence of the reader", two);
    two.words = "";
    expect<SetCounter, FenceTooEarly>("a fence before the write", two);
    two.fault = "stale";
    expect<SetCounter, ReadOtherBlockAsConstant>("loadConstant of what another block wrote", two);
    two.fault = "two blocks";
    expect<TwoBlocksWrite>("scratch written by two blocks", two);
    two.words = "wrote in this launch";
    expect<TwoBlocksWriteOutput>("an output written by two blocks", two);
}

} // namespace selftest
