// One case of the file, run as it says.
#pragma once

#include "case_file.h"

namespace host
{

//! \throw std::bad_alloc
Result call(Case const& layer, Run const& run);

} // namespace host
