#include "level.h"

#include "lccl_cpu.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace lccl::ort
{

int32_t chooseLevel()
{
    char const* const named = std::getenv("LCCL_CPU_LEVEL");
    if (named == nullptr || *named == '\0')
    {
        return lccl_cpu_choose();
    }
    std::string choices;
    for (int32_t i = 0; i < lccl_cpu_level_count(); ++i)
    {
        lccl_cpu_level const& level = *lccl_cpu_level_at(i);
        if (lccl_cpu_level_runs(level.id) == 0)
        {
            continue;
        }
        if (std::string(named) == level.name)
        {
            return level.id;
        }
        choices += (choices.empty() ? "" : " or ") + std::string(level.name);
    }
    throw std::invalid_argument("LCCL_CPU_LEVEL is " + std::string(named) + ": on this machine it may be " + choices);
}

} // namespace lccl::ort
