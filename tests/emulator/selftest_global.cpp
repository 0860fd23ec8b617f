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

// ---- bounds, rights, alignment -----------------------------------------------------------------

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
        machine::loadConstant(reinterpret_cast<Vec16 const*>(a.input + kInts - 2));
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

// ---- first writes, outputs, residuals ----------------------------------------------------------

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

} // namespace

void testGlobalFaults()
{
    testBounds();
    testOutputs();
}

} // namespace selftest
