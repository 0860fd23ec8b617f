// Finds the TensorRT that has loaded this library, which links to none and so has no version to
// compile against.
#pragma once

#include <cstdint>

namespace lccl::plugin
{

//! Major version of the TensorRT library that an object's table of functions lies in; 0 if that
//! cannot be told.
int32_t majorVersionBehind(void* object);

} // namespace lccl::plugin
