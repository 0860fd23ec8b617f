// One faulty kernel for each fault of global memory, each beside the kernel that does it right.

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

struct CopyScratch : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.output + element(), machine::loadConstant(a.scratch + element()));
    }
};

// ---- bounds, rights, alignment ------------------------------------------------------------------------------------------

struct ReadBehind : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::loadConstant(a.input + element() + 1);
    }
};

struct ReadBefore : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::loadGlobal(a.input + element() - 1);
    }
};

struct ReadHalfBehind : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::loadConstant(reinterpret_cast<Vec16 const*>(a.input + kInts - 2 + thread() / 64));
    }
};

struct WriteBehind : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + element() + 1, 0);
    }
};

struct WriteUnregistered : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.unregistered + kInts / 2 + thread(), 0);
    }
};

struct ReadNull : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::loadConstant(static_cast<int32_t const*>(nullptr) + thread());
    }
};

struct WriteInput : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(const_cast<int32_t*>(a.input) + thread(), 0);
    }
};

struct AddToInput : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::atomicAddGlobal(const_cast<int32_t*>(a.input) + thread(), 1);
    }
};

struct ReadMisaligned : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::loadConstant(reinterpret_cast<Vec16 const*>(a.input + thread() * 4 + 1));
    }
};

struct WriteMisaligned : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(reinterpret_cast<Vec8*>(a.scratch + thread() * 4 + 1), Vec8{{0, 0}});
    }
};

// ---- first writes, outputs, residuals -----------------------------------------------------------------------------------

struct ReadOutput : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::loadGlobal(a.output + thread());
    }
};

struct AddToUnwritten : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::atomicAddGlobal(a.scratch, 1);
    }
};

struct WriteOutput : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.output + element(), 1);
    }
};

struct WriteOutputTwice : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.output + element(), 1);
        machine::storeGlobal(a.output + element(), 1);
    }
};

struct WriteAllButOne : Threads<64>
{
    static void run(Arguments const& a)
    {
        if (element() != 77)
        {
            machine::storeGlobal(a.output + element(), 1);
        }
    }
};

struct AddResidual : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t const residual = machine::loadOwned(a.inPlace + element());
        machine::storeGlobal(a.inPlace + element(), residual + 1);
    }
};

struct ReadResidualLate : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.inPlace + element(), 1);
        machine::loadOwned(a.inPlace + element());
    }
};

struct ReadNeighboursResidual : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::loadOwned(a.inPlace + (element() ^ 1));
        machine::syncWarp();
        if (thread() % 2 == 0)
        {
            machine::storeGlobal(a.inPlace + element(), 1);
        }
    }
};

struct ReadResidualOfAnother : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::loadOwned(a.inPlace + element());
        if (thread() == 40)
        {
            machine::storeGlobal(a.inPlace + element() - 37, 1);
        }
    }
};

struct ReadOwnedOfAnother : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.scratch + element(), 1);
        machine::syncThreads();
        machine::loadOwned(a.scratch + (element() ^ 1));
    }
};

// ---- within one launch --------------------------------------------------------------------------------------------------

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

//! The last block to arrive adds up what all have written.
template <Missing kMissing>
struct JoinBlocks : Threads<32>
{
    static void run(Arguments const& a)
    {
        int32_t* const parts = a.scratch + 32;
        machine::storeGlobal(parts + machine::blockIndex() * 32 + thread(), thread());
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
                sum += machine::loadGlobal(parts + block * 32 + (thread() ^ 1));
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

void testBounds()
{
    Expectation all{"out of bounds"};
    all.blocks = 4;
    all.words = "thread 63: reads 4 bytes at offset 1024 of input, which has 1024 bytes";
    expect<ReadBehind>("a read one element behind a tensor", all);
    all.words = "block 0, thread 0: reads 4 bytes 4 bytes before input";
    expect<ReadBefore>("a read one element before a tensor", all);
    all.words = "thread 63: writes 4 bytes at offset 1024 of scratch";
    expect<WriteBehind>("a write one element behind a tensor", all);
    expect<ReadHalfBehind>("a read that ends behind a tensor", {"out of bounds"});
    expect<WriteUnregistered>("a write to memory that is not registered", {"out of bounds"});
    expect<ReadNull>("a read at null", {"out of bounds"});
    expect<WriteInput>("a write to a read-only tensor", {"read-only"});
    expect<AddToInput>("an atomic addition to a read-only tensor", {"read-only"});
    expect<ReadMisaligned>("a misaligned read", {"misaligned"});
    expect<WriteMisaligned>("a misaligned write", {"misaligned"});
}

void testOutputs()
{
    Expectation all{nullptr};
    all.blocks = 4;
    expect<WriteScratch, CopyScratch>("scratch of an earlier launch", all);
    expect<CopyScratch>("scratch that nothing has written", {"uninitialised"});
    expect<ReadOutput>("a read of an output that nothing has written", {"uninitialised"});
    expect<AddToUnwritten>("an atomic addition to scratch that nothing has written", {"uninitialised"});
    all.outputAccess = LCCL_EMULATOR_COMPLETE_OUTPUT;
    expect<WriteOutput>("a complete output", all);
    expect<WriteOutputTwice>("an output written twice", {"written twice"});
    expect<WriteOutput, WriteOutput>("an output written by two launches", {"written twice"});
    all.fault = "not written";
    all.words = "4 bytes of output were never written, the first at offset 308";
    expect<WriteAllButOne>("an output with a hole", all);
    expect<AddResidual>("a residual that is the output", {nullptr});
    expect<ReadResidualLate>("a residual read after it was overwritten", {"overwritten"});
    Expectation another{"race"};
    another.also = "overwritten"; // Where the reader comes second.
    expect<ReadResidualOfAnother>("a residual that another thread overwrites", another);
    expect<ReadOwnedOfAnother>("loadOwned of another thread's bytes", {"not owned"});
    expect<ReadNeighboursResidual>("a residual of a lane's neighbour, with a barrier", {nullptr});
}

void testLaunch()
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

} // namespace

void testGlobalFaults()
{
    testBounds();
    testOutputs();
    testLaunch();
}

} // namespace selftest
