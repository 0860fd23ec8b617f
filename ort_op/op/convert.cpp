// Converts by loops without branches, which compilers vectorise, and in integers where floats would
// flush or trap.

#include "convert.h"

#include <cstring>

namespace lccl::ort
{
namespace
{

float asFloat(uint32_t bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t asBits(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

constexpr uint32_t kInfinity = 0x7F800000U; //!< of float32
constexpr uint32_t kHalfInfinity = 0x7C00U;

} // namespace

void fromFloat16(uint16_t const* from, float* to, size_t count)
{
    uint32_t const half = asBits(0.5F); // its last bit is worth 2^-24, as float16's subnormals'
    for (size_t i = 0; i < count; ++i)
    {
        uint32_t const sign = (from[i] & 0x8000U) << 16;
        uint32_t const rest = from[i] & 0x7FFFU;
        uint32_t const normal = (rest << 13) + (112U << 23); // between the exponents' biases
        uint32_t const subnormal = asBits(asFloat(half + rest) - 0.5F);
        uint32_t const special = kInfinity | (rest << 13);
        uint32_t const finite = rest < 0x400U ? subnormal : normal;
        to[i] = asFloat(sign | (rest >= kHalfInfinity ? special : finite));
    }
}

void toFloat16(float const* from, uint16_t* to, size_t count)
{
    uint32_t const half = asBits(0.5F); // its last bit is worth 2^-24, as float16's subnormals': the addition rounds
    for (size_t i = 0; i < count; ++i)
    {
        uint32_t const bits = asBits(from[i]);
        uint32_t const rest = bits & 0x7FFFFFFFU;
        uint32_t const normal = (rest - (112U << 23) + 0xFFFU + ((rest >> 13) & 1U)) >> 13;
        uint32_t const subnormal = asBits(asFloat(rest) + 0.5F) - half;
        uint32_t const nan = kHalfInfinity | 0x200U | ((rest >> 13) & 0x3FFU);
        uint32_t result = rest < (113U << 23) ? subnormal : normal;
        result = rest >= 0x477FF000U ? kHalfInfinity : result; // 65520: rounds to infinity
        result = rest > kInfinity ? nan : result;
        to[i] = static_cast<uint16_t>((bits >> 16 & 0x8000U) | result);
    }
}

void fromBfloat16(uint16_t const* from, float* to, size_t count)
{
    for (size_t i = 0; i < count; ++i)
    {
        to[i] = asFloat(static_cast<uint32_t>(from[i]) << 16);
    }
}

void toBfloat16(float const* from, uint16_t* to, size_t count)
{
    for (size_t i = 0; i < count; ++i)
    {
        uint32_t const bits = asBits(from[i]);
        uint32_t const rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
        uint32_t const nan = (bits >> 16) | 0x40U;
        to[i] = static_cast<uint16_t>((bits & 0x7FFFFFFFU) > kInfinity ? nan : rounded);
    }
}

} // namespace lccl::ort
