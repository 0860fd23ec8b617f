// Lanes that part, stacks that overflow, launches and registrations that are wrong, and the report
// itself.

#include "selftest.h"

#include <cstring>

namespace selftest
{
namespace
{

int32_t thread()
{
    return machine::threadIndex();
}

struct ExitBeforeBallot : Threads<64>
{
    static void run(Arguments const&)
    {
        if (thread() != 37)
        {
            machine::ballot(true);
        }
    }
};

struct BarrierInsteadOfShuffle : Threads<64>
{
    static void run(Arguments const&)
    {
        if (thread() == 37)
        {
            machine::syncThreads();
        }
        machine::shuffleXor(1.0F, 1);
    }
};

struct DifferentOperations : Threads<32>
{
    static void run(Arguments const&)
    {
        if (thread() < 16)
        {
            machine::syncWarp();
        }
        else
        {
            machine::ballot(true);
        }
    }
};

struct MultiplyDiverges : Threads<32>
{
    static void run(Arguments const&)
    {
        float c[4] = {};
        uint32_t const a[4] = {};
        if (thread() != 0)
        {
            machine::mmaM16N8K16<lccl::Half>(c, a, 0, 0);
        }
    }
};

struct LoadMatricesDiverges : Threads<32>
{
    static void run(Arguments const&)
    {
        uint32_t fragment[4];
        if (thread() != 31)
        {
            machine::ldmatrixX4(fragment, machine::sharedBase());
        }
    }
};

struct ExitBeforeBarrier : Threads<64>
{
    static void run(Arguments const&)
    {
        if (thread() < 60)
        {
            machine::syncThreads();
        }
    }
};

//! Lanes may come late, if they come.
struct UnequalWork : Threads<64>
{
    static void run(Arguments const& a)
    {
        int32_t sum = 0;
        for (int32_t i = 0; i < thread(); ++i)
        {
            sum += machine::loadConstant(a.input + i);
        }
        machine::syncWarp();
        machine::syncThreads();
        machine::storeGlobal(a.output + thread(), machine::shuffleXor(sum, 31));
    }
};

struct ShuffleTooFar : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::shuffleXor(thread(), 32);
    }
};

struct ShuffleFromBeyond : Threads<32>
{
    static void run(Arguments const&)
    {
        machine::shuffle(thread(), 32);
    }
};

struct DeepStack : Threads<32>
{
    static void run(Arguments const&)
    {
        if (thread() == 0)
        {
            unsigned char volatile array[64 * 1024];
            for (size_t i = 0; i < sizeof(array); ++i)
            {
                array[i] = 1;
            }
        }
        machine::syncThreads();
    }
};

//! The same, and no barrier that could notice it before the end.
struct DeepAtEnd : Threads<32>
{
    static void run(Arguments const&)
    {
        if (thread() == 0)
        {
            unsigned char volatile array[64 * 1024];
            for (size_t i = 0; i < sizeof(array); ++i)
            {
                array[i] = 1;
            }
        }
    }
};

struct HalfAStack : Threads<32>
{
    static void run(Arguments const&)
    {
        unsigned char volatile array[32 * 1024];
        for (size_t i = 0; i < sizeof(array); ++i)
        {
            array[i] = 1;
        }
        machine::syncThreads();
    }
};

struct DoNothing : Threads<32>
{
    static void run(Arguments const&) {}
};

//! Touches only what no session has been told of.
struct WriteNowhereRegistered : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::storeGlobal(a.unregistered + thread(), 5);
    }
};

//! Has no barrier where it needs one.
struct Race : Threads<64>
{
    static void run(Arguments const& a)
    {
        machine::storeShared(machine::sharedBase() + thread() * 4, -1);
        machine::syncThreads();
        machine::storeShared(machine::sharedBase() + thread() * 4, thread());
        machine::storeGlobal(a.output + thread(), machine::loadShared<int32_t>(machine::sharedBase() + (thread() ^ 1) * 4));
    }
};

//! Three faults at once.
struct ThreeFaults : Threads<32>
{
    static void run(Arguments const& a)
    {
        machine::loadConstant(a.input - 1);
        machine::storeGlobal(const_cast<int32_t*>(a.input), 1);
        machine::loadGlobal(a.scratch);
    }
};

void testDivergence()
{
    Expectation stuck{"divergence", cudaErrorLaunchFailure};
    stuck.words = "of warp 1 waits at ballot, but lane 5 has exited";
    expect<ExitBeforeBallot>("a lane that has exited before a ballot", stuck);
    stuck.words = "of warp 1 waits at shuffleXor of floats, but lane 5 waits at syncThreads";
    expect<BarrierInsteadOfShuffle>("a lane at a barrier while others shuffle", stuck);
    stuck.words = "of its warp waits at";
    expect<DifferentOperations>("lanes at different operations", stuck);
    stuck.words = "waits at mmaM16N8K16 of Half, but lane 0 has exited";
    expect<MultiplyDiverges>("a product without all lanes", stuck);
    stuck.words = "waits at ldmatrixX4, but lane 31 has exited";
    expect<LoadMatricesDiverges>("matrices without all lanes", stuck);
    stuck.words = "60 threads wait at syncThreads, but 4 have exited";
    expect<ExitBeforeBarrier>("threads that have exited before a barrier", stuck);
    stuck.words = "";
    expect<ExitBeforeBarrier, DoNothing>("a launch after one that could not go on", stuck);
    stuck.outputAccess = LCCL_EMULATOR_COMPLETE_OUTPUT;
    expect<ExitBeforeBarrier>("an output that a failed launch left unwritten", stuck);
    expect<UnequalWork>("lanes that come late", {nullptr});
    expect<ShuffleTooFar>("a shuffle beyond the warp", {"bad argument"});
    expect<ShuffleFromBeyond>("a shuffle from a lane that is not there", {"bad argument"});
}

void testStacks()
{
    expect<HalfAStack>("half a stack", {nullptr});
    Expectation deep{"stack overflow", cudaErrorLaunchFailure};
    deep.words = "thread 0: uses more than the 65536 bytes of its stack";
    expect<DeepStack>("more than a stack", deep);
    expect<DeepAtEnd>("more than a stack, seen at a thread's end", deep);
    expect<HalfAStack>("a launch after an overflow, in a new session", {nullptr});
}

void testLaunches()
{
    Expectation wrong{"bad argument", cudaErrorInvalidConfiguration};
    wrong.blocks = 0;
    expect<DoNothing>("a launch of no blocks", wrong);
    wrong.blocks = 1;
    wrong.sharedBytes = 228 * 1024;
    expect<DoNothing>("a launch with more shared memory than there is", wrong);
    wrong = {nullptr};
    wrong.sharedBytes = 227 * 1024;
    expect<DoNothing>("a launch with all shared memory", wrong);
}

void testRegistration()
{
    Tensor tensor{};
    lccl_emulator_begin(0, 1);
    bool const first = lccl_emulator_register(&tensor, 512, LCCL_EMULATOR_OUTPUT, "first") == 1;
    bool const neighbour = lccl_emulator_register(tensor.value + 128, 512, LCCL_EMULATOR_SCRATCH, "neighbour") == 1;
    bool const empty = lccl_emulator_register(&tensor, 0, LCCL_EMULATOR_SCRATCH, "empty") == 1;
    check(first && neighbour && empty && lccl_emulator_finish(nullptr, 0) == 0, "tensors side by side", "refused");
    auto const refused = [&tensor](char const* name, size_t offset, int32_t access, char const* words, size_t bytes = 8)
    {
        lccl_emulator_begin(0, 1);
        lccl_emulator_register(tensor.value + 64, 256, LCCL_EMULATOR_READ_ONLY, "first");
        int32_t const accepted = lccl_emulator_register(reinterpret_cast<char*>(&tensor) + offset, bytes, access, "second");
        char report[4096];
        int32_t const faults = lccl_emulator_finish(report, sizeof(report));
        check(accepted == 0 && faults == 1 && std::strstr(report, words) != nullptr, name, report);
    };
    refused("tensors that overlap", 252, LCCL_EMULATOR_SCRATCH, "bad registration: second overlaps first");
    refused("a tensor at an odd address", 1, LCCL_EMULATOR_SCRATCH, "odd address");
    refused("a tensor larger than memory", 512, LCCL_EMULATOR_SCRATCH, "run it unchecked", size_t{1} << 60);
    refused("an access that does not exist", 0, 6, "second has access 6");
}

void testReport()
{
    Run run(0, true, LCCL_EMULATOR_OUTPUT);
    run.launch<ThreeFaults>(1, 0);
    Outcome const outcome = run.finish();
    bool const kernelNamed = outcome.report.find("ThreeFaults, block 0, thread ") != std::string::npos;
    bool const counted = outcome.report.find("(32 times)") != std::string::npos;
    check(outcome.faults == 3 && kernelNamed && counted, "a sentence for each fault, with the kernel's name", outcome.report);

    Run second(0, true, LCCL_EMULATOR_OUTPUT);
    second.launch<ThreeFaults>(1, 0);
    char cut[20];
    std::memset(cut, 'x', sizeof(cut));
    int32_t const faults = lccl_emulator_finish(cut, sizeof(cut) - 4);
    check(
        faults == 3 && std::strlen(cut) == sizeof(cut) - 5 && cut[sizeof(cut) - 4] == 'x', "a report that is cut", "it is not");

    Run unchecked(0, false, LCCL_EMULATOR_OUTPUT);
    unchecked.launch<Race>(1, 256);
    Outcome const quiet = unchecked.finish();
    check(quiet.faults == 0 && quiet.error == cudaSuccess, "nothing is tracked unchecked", quiet.report);

    expect<Race>("the same kernel, checked", {"race"});

    lccl_emulator_begin(0, 0);
    Arguments const none{};
    cudaError_t const error = machine::launch<ExitBeforeBarrier>(none, 1, 0, nullptr);
    check(
        error == cudaErrorLaunchFailure && lccl_emulator_finish(nullptr, 0) == 1, "divergence is found unchecked", "it is not");
}

//! A process that has run a checked session may call the kernels without one, also after a fault.
void testAfterFinish()
{
    for (bool const faulty : {false, true})
    {
        Run run(0, true, LCCL_EMULATOR_OUTPUT);
        if (faulty)
        {
            run.launch<ExitBeforeBarrier>(1, 0);
        }
        run.finish();
        cudaError_t const error = machine::launch<WriteNowhereRegistered>(run.arguments(), 1, 0, nullptr);
        bool const written = run.unregistered.value[0] == 5 && run.unregistered.value[31] == 5;
        check(error == cudaSuccess && written, faulty ? "a call after a session that failed" : "a call after a session",
            "it did not run as before begin");
    }
}

} // namespace

void testOtherFaults()
{
    testDivergence();
    testStacks();
    testLaunches();
    testRegistration();
    testReport();
    testAfterFinish();
}

} // namespace selftest
