// What the tests ask of the host program and what it answers: two binary files, described in
// tests/support/hosts/cpu.py.
#pragma once

#include "lccl_cpu.h"

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

namespace host
{

//! What a pointer of a call leads to; the first ones are the inputs, in the file's order.
enum Slot : int32_t
{
    kX,
    kWeight, //!< As lccl_cpu_pack takes it.
    kBias,
    kGateWeight,
    kGateBias,
    kGate,
    kPostScale,
    kPostBias,
    kResidual,
    kInputs, //!< How many inputs there are.
    kPacked = kInputs,
    kWorkspace,
    kY,
    kActive,
};

//! Where a call's memory lies.
enum Placement : int32_t
{
    kHeap,
    kEndsAtGuard,   //!< A page that nobody may touch follows the last byte.
    kStartsAtGuard, //!< It lies before the first byte.
};

//! What the host does wrong on purpose. The kernels have to refuse the first three; the tests have
//! to see the others.
enum Fault : int32_t
{
    kNone,
    kNull,           //!< The slot's pointer is null.
    kMisaligned,     //!< The slot's pointer is one float off.
    kShortWorkspace, //!< The workspace is one byte short, and its size says so.
    kShort,          //!< The slot's memory is one float short (at its start with kStartsAtGuard), and nobody says so.
    kTwice,          //!< Every task runs on two threads.
};

struct Run
{
    int32_t isa;
    //! From 1: of the pool. 0: there is no `parallel`. Below 0: -threads is said, and tasks run
    //! here, the last one first.
    int32_t threads;
    int32_t callers; //!< Calls at the same time, each with its own output and workspace.
    int32_t placement;
    int32_t fault;
    int32_t slot; //!< What the fault is about.
    float density;
};

struct Case
{
    std::string name;
    lccl_cpu_params params; //!< Pointers mean nothing.
    bool given[kInputs];
    std::vector<float> inputs[kInputs];
    int64_t outputs; //!< Elements of y.
    std::vector<Run> runs;
};

struct Result
{
    int32_t supported;
    int32_t status;
    int32_t callersAgree; //!< All of them have the same bits in y and the same count.
    int32_t intact;       //!< The bytes around the output and the workspace are as they were.
    int64_t packedBytes;
    int64_t workspaceBytes;
    int64_t active;
    std::string reason;
    std::vector<float> y;
};

//! Before a call, every byte of y is kPoison's and the count is kNoCount.
constexpr uint32_t kPoison = 0x7fc5a5a5U; // a NaN that no arithmetic makes
constexpr int64_t kNoCount = -77;

//! \throw std::runtime_error: the file is not there or is cut off.
std::vector<Case> readCases(char const* path);

//! Appends the results of each case to a file; y only where its bits are not those of the run
//! before.
class ResultFile
{
public:
    explicit ResultFile(char const* path);
    void add(std::vector<Result> const& results);
    //! \throw std::runtime_error: not everything could be written.
    void close();

private:
    template <typename T>
    void number(T value);
    void bytes(void const* data, size_t size);

    std::ofstream mStream;
};

} // namespace host
