// Converts float16 and bfloat16 to float32 and back: rounds to nearest, ties to even; NaN stays
// NaN.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lccl::ort
{

void fromFloat16(uint16_t const* from, float* to, size_t count);
void fromBfloat16(uint16_t const* from, float* to, size_t count);
void toFloat16(float const* from, uint16_t* to, size_t count);
void toBfloat16(float const* from, uint16_t* to, size_t count);

} // namespace lccl::ort
