// Chooses the instruction set of this process's kernels: the environment's choice, else the best
// one.
#include "isa.h"

#include "lccl_cpu.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace lccl::ort
{
namespace
{

constexpr char const* kVariable = "LCCL_CPU_ISA";
constexpr char const* kOldVariable = "LCCL_CPU_LEVEL"; //!< goes away in 0.3

bool isSet(char const* variable)
{
    char const* const value = std::getenv(variable);
    return value != nullptr && *value != '\0';
}

//! The variable that names an instruction set, or null. The old spelling is warned of once.
char const* setVariable()
{
    if (isSet(kVariable) || !isSet(kOldVariable))
    {
        return isSet(kVariable) ? kVariable : nullptr;
    }
    static int const kWarning = std::fprintf(
        stderr, "warning: %s is now %s; the old spelling goes away in 0.3\n", kOldVariable, kVariable);
    static_cast<void>(kWarning);
    return kOldVariable;
}

} // namespace

int32_t chooseIsa()
{
    char const* const variable = setVariable();
    if (variable == nullptr)
    {
        return lccl_cpu_choose();
    }
    std::string const named = std::getenv(variable);
    std::string choices;
    for (int32_t i = 0; i < lccl_cpu_isa_count(); ++i)
    {
        lccl_cpu_isa const& isa = *lccl_cpu_isa_at(i);
        if (lccl_cpu_isa_runs(isa.id) == 0)
        {
            continue;
        }
        if (named == isa.name)
        {
            return isa.id;
        }
        choices += (choices.empty() ? "" : " or ") + std::string(isa.name);
    }
    throw std::invalid_argument(std::string(variable) + " is " + named + ": on this machine it may be " + choices);
}

} // namespace lccl::ort
