// What the emulator's self tests share: memory, a way to run small kernels, and a line for each
// check.
#pragma once

#include "emulator.h"
#include "machine.h"

#include <cstdint>
#include <string>
#include <vector>

namespace selftest
{

namespace machine = lccl::machine;

//! Prints the check's line. `detail` is printed if it failed.
void check(bool passed, std::string const& name, std::string const& detail);

//! Number of checks that failed.
int failures();

//! Ints in each tensor of Arguments.
constexpr int32_t kInts = 256;

//! What small kernels get. Each tensor has kInts ints and is aligned to 16 bytes.
struct Arguments
{
    int32_t const* input; //!< i at [i]
    int32_t* output;
    int32_t* inPlace; //!< 1000 + i at [i]
    int32_t* scratch;
    int32_t* unregistered;
};

//! Sizes of a block.
template <int32_t kThreads_>
struct Threads
{
    static constexpr int32_t kThreads = kThreads_;
};

//! With room behind it that is not registered: one element too far is in no other tensor.
struct alignas(16) Tensor
{
    int32_t value[kInts];
    int32_t room[16];
};
constexpr size_t kTensorBytes = kInts * sizeof(int32_t);

struct Outcome
{
    int32_t faults;
    std::string report;
    cudaError_t error;
};

//! The tensors of Arguments, registered with one session of the emulator.
class Run
{
public:
    Run(uint64_t seed, bool checked, int32_t outputAccess);

    template <typename Kernel>
    void launch(int32_t blocks, int32_t sharedBytes)
    {
        cudaError_t const error = machine::launch<Kernel>(arguments(), blocks, sharedBytes, nullptr);
        mError = mError == cudaSuccess ? error : mError;
    }

    Outcome finish();

    Arguments arguments();

    Tensor input;
    Tensor output;
    Tensor inPlace;
    Tensor scratch;
    Tensor unregistered;

private:
    cudaError_t mError = cudaSuccess;
};

constexpr uint64_t kSeeds = 5;
constexpr int32_t kSharedBytes = 1024;

//! What a kernel must be told of.
struct Expectation
{
    char const* fault; //!< The words that its sentence starts with; null: nothing is reported.
    cudaError_t error = cudaSuccess;
    int32_t blocks = 1;
    int32_t outputAccess = LCCL_EMULATOR_OUTPUT;
    char const* words = ""; //!< A part of its sentence.
    int32_t sharedBytes = kSharedBytes;
    char const* also = nullptr; //!< What the same mistake is, when threads take their turns in another order.
};

void checkOutcome(char const* name, uint64_t seed, Expectation const& expected, Outcome const& outcome, std::string& problem);

//! Runs kernels one after the other in one session, with several seeds: the expected fault and no
//! other must be reported.
template <typename... Kernels>
void expect(char const* name, Expectation const& expected)
{
    std::string problem;
    for (uint64_t seed = 0; seed < kSeeds; ++seed)
    {
        Run run(seed, true, expected.outputAccess);
        (run.launch<Kernels>(expected.blocks, expected.sharedBytes), ...);
        checkOutcome(name, seed, expected, run.finish(), problem);
    }
    check(problem.empty(), name, problem);
}

// One file each.
void testResults();
void testGlobalFaults();
void testLaunchFaults();
void testSharedFaults();
void testCopyFaults();
void testOtherFaults();

} // namespace selftest
