// The table of the Triton kernels that a library holds compiled. A Python program writes it; without
// Triton it is empty (without_triton.cpp).
#pragma once

#include "lccl_cuda.h"

#include <cstdint>

namespace lccl
{

//! The kernels' arguments, by their names in kernels.py: kXImage is x_image. kWeight is w.
enum class Argument : uint8_t
{
    kNone,
    kX,
    kWeight,
    kGateW,
    kGateB,
    kExternal,
    kBias,
    kScale,
    kOffset,
    kResidual,
    kY,
    kGmap,
    kCells,
    kCount,
    kNCells,
    kPixels,
    kH,
    kW,
    kHo,
    kWo,
    kHg,
    kWg,
    kC,
    kK,
    kR,
    kS,
    kRg,
    kSg,
    kG,
    kSh,
    kSw,
    kPh,
    kPw,
    kDh,
    kDw,
    kXImage,
    kXPixel,
    kXChannel,
    kYImage,
    kYPixel,
    kYChannel,
    kYChannels,
    kSlope,
    kBound,
    kThreshold,
    kExternalStride,
    kHasGateB,
    kSimulated,
    kSimulatedShift,
    kAlpha,
    kPostAlpha,
    kScaleStride,
    kOffsetStride,
    kHasResidual,
    kKeeps,
    kDenseShare,
    kArguments //!< their number
};

//! What a parameter of a cubin takes.
enum class ParameterKind : uint8_t
{
    kPointer,
    kDescriptor, //!< a CUtensorMap
    kSize,       //!< of a descriptor's tensor along an axis, 32 bits
    kLongSize,   //!< the same in 64 bits
    kStride,     //!< in elements, 64 bits
    kFlag,       //!< of a descriptor that is a plain pointer: padding by NaN, rounding to TF32; 0
    kInt32,
    kInt64,
    kFloat32,
    kScratch //!< memory that no cubin asks for: 0
};

//! A parameter's place in the block of all parameters, in bytes, and what it is.
struct Parameter
{
    uint16_t offset;
    uint16_t size;
    ParameterKind kind;
    Argument argument;
    uint8_t axis;
};

constexpr int32_t kMaxRank = 5;

//! How a descriptor's box lies in shared memory; swizzle and type are the driver's numbers.
struct Box
{
    Argument argument;
    int32_t rank;
    uint32_t box[kMaxRank]; //!< elements along each axis, the last one contiguous
    int32_t swizzle;
    int32_t elementBytes;
    int32_t elementType;
};

enum class CubinKernel : uint8_t
{
    kGate,
    kRows,
    kBoxes,
    kClose
};

struct Cubin
{
    CubinKernel kernel;
    int32_t dtype;
    int32_t tile;       //!< number in triton_tiles.h; 0 for gate and close
    int32_t inEights;   //!< 1: for channels of x in eights only
    int32_t nchw;       //!< 1: float32 in NCHW, 0: NHWC
    int32_t capability; //!< 90 for 9.0
    char const* function;
    unsigned char const* code;
    uint64_t codeBytes;
    int32_t sharedBytes;
    int32_t warps;
    int32_t registers;
    int32_t cuda; //!< the version of its assembler: 1000 * major + 10 * minor
    int32_t pdl;  //!< 1: it waits for the kernel ahead of it by itself
    Parameter const* parameters;
    int32_t parameterCount;
    Box const* boxes;
    int32_t boxCount;
};

//! All that this library holds.
Cubin const* allCubins(int32_t& count);

} // namespace lccl
