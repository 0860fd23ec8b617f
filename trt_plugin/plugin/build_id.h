// Identifies the kernels in this library; changes whenever their sources do.
#pragma once

namespace lccl::plugin
{

//! A hash over the kernels' sources, in hexadecimal.
extern char const* const kKERNEL_HASH;

} // namespace lccl::plugin
