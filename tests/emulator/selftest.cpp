// Runs the emulator's self tests: a line for each check, exit code 1 if one failed.

#include "selftest.h"

#include <cstdio>
#include <sstream>

namespace selftest
{
namespace
{

int failed = 0;

bool startsWith(std::string const& line, char const* fault)
{
    return line.rfind(std::string(fault) + ": ", 0) == 0;
}

} // namespace

void check(bool passed, std::string const& name, std::string const& detail)
{
    std::printf("%s %s%s%s\n", passed ? "ok  " : "FAIL", name.c_str(), passed ? "" : ": ", passed ? "" : detail.c_str());
    failed += passed ? 0 : 1;
}

int failures()
{
    return failed;
}

Run::Run(uint64_t seed, bool checked, int32_t outputAccess)
{
    for (int32_t i = 0; i < kInts; ++i)
    {
        input.value[i] = i;
        inPlace.value[i] = 1000 + i;
        output.value[i] = scratch.value[i] = unregistered.value[i] = -7;
    }
    lccl_emulator_begin(seed, checked ? 1 : 0);
    lccl_emulator_register(&input, kTensorBytes, LCCL_EMULATOR_READ_ONLY, "input");
    lccl_emulator_register(&output, kTensorBytes, outputAccess, "output");
    lccl_emulator_register(&inPlace, kTensorBytes, LCCL_EMULATOR_IN_PLACE, "inPlace");
    lccl_emulator_register(&scratch, kTensorBytes, LCCL_EMULATOR_SCRATCH, "scratch");
}

Arguments Run::arguments()
{
    return {input.value, output.value, inPlace.value, scratch.value, unregistered.value};
}

Outcome Run::finish()
{
    char report[4096];
    int32_t const faults = lccl_emulator_finish(report, sizeof(report));
    return {faults, report, mError};
}

void checkOutcome(char const* name, uint64_t seed, Expectation const& expected, Outcome const& outcome, std::string& problem)
{
    int32_t right = 0;
    std::istringstream lines(outcome.report);
    for (std::string line; std::getline(lines, line);)
    {
        bool const named = expected.fault != nullptr && startsWith(line, expected.fault)
            && line.find(expected.words) != std::string::npos;
        right += named || (expected.also != nullptr && startsWith(line, expected.also)) ? 1 : 0;
    }
    int32_t const most = expected.fault == nullptr ? 0 : expected.also == nullptr ? 1 : 2;
    bool const found = expected.fault == nullptr || right > 0;
    if (!found || right != outcome.faults || right > most || outcome.error != expected.error)
    {
        problem += std::string(name) + " with seed " + std::to_string(seed) + " returned " + std::to_string(outcome.error)
            + " and " + std::to_string(outcome.faults) + " faults\n" + outcome.report;
    }
}

} // namespace selftest

int main()
{
    selftest::testResults();
    selftest::testGlobalFaults();
    selftest::testLaunchFaults();
    selftest::testSharedFaults();
    selftest::testCopyFaults();
    selftest::testOtherFaults();
    std::printf("%d failed\n", selftest::failures());
    return selftest::failures() == 0 ? 0 : 1;
}
