// Which instructions the kernels use.
#pragma once

#include <cstdint>

namespace lccl::ort
{

//! The best level that this machine runs, or the one that the environment's LCCL_CPU_LEVEL names.
//! \throw std::invalid_argument with a sentence: it names none that this machine runs
int32_t chooseLevel();

} // namespace lccl::ort
