// Which instruction set the kernels of this process use.
#pragma once

#include <cstdint>

namespace lccl::ort
{

//! The best instruction set that this machine runs, or the one that the environment's LCCL_CPU_ISA
//! names. LCCL_CPU_LEVEL, the variable's old name, is read too, with a warning on stderr.
//! \throw std::invalid_argument if the variable names an instruction set that this machine does not
//! run
int32_t chooseIsa();

} // namespace lccl::ort
