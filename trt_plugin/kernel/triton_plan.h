// Plans a call of the Triton kernels: which cubins run, with which values. Pure functions, no CUDA.
#pragma once

#include "cubins.h"
#include "plan.h"

#include <array>

namespace lccl
{

//! Pixels along a box.
constexpr int32_t kBoxSide = 8;
//! Cells or pixels, and channels, of a block of the kernels gate and close.
constexpr int32_t kHelperTile = 64;

//! The version of CUDA that the driver is for, 1000 * major + 10 * minor; 0 where there is no driver.
int32_t driverCuda();

//! The cubin of a kernel for a call that runs on a device under a driver, or null.
//! \param driver 0: any
Cubin const* findCubin(
    CubinKernel kernel, lccl_conv_params const& params, lccl_device const& device, int32_t driver, int32_t tile);

//! Why this library cannot run any call on a device, or an empty string.
std::string rejectDevice(lccl_device const& device);

//! Why a Triton configuration cannot run a call, or an empty string.
std::string rejectTriton(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

//! Why this library holds no cubins of a Triton configuration for a call on a device, or an empty string.
std::string rejectCubins(lccl_conv_params const& params, lccl_device const& device, lccl_conv_config const& config);

//! A tensor that a descriptor describes; the last axis is contiguous.
struct TensorMap
{
    void const* address;
    int32_t rank;
    int64_t sizes[kMaxRank];
    int64_t strides[kMaxRank]; //!< in elements
};

//! The value of each argument; which of the three it has, and none for an argument that is not set.
class Values
{
public:
    void setPointer(Argument argument, void const* value);
    void setInteger(Argument argument, int64_t value);
    void setFloat(Argument argument, float value);
    void setMap(Argument argument, TensorMap const& map);

    //! Null, or the tensor behind a descriptor.
    TensorMap const* map(Argument argument) const;

    //! Writes a parameter other than a descriptor to its place. \return whether the argument is known and
    //! set, is of that kind and fits into the parameter
    bool write(Parameter const& parameter, unsigned char* to) const;

private:
    enum class Type : uint8_t
    {
        kUnset,
        kPointer,
        kInteger,
        kFloat
    };
    struct Value
    {
        Type type;
        int64_t bits;
    };
    struct Described
    {
        Argument argument;
        TensorMap map;
    };
    std::array<Value, static_cast<size_t>(Argument::kArguments)> mValues{};
    std::array<Described, 4> mMaps{};
    size_t mMapCount{0};
};

//! A kernel, its values and its grid.
struct Step
{
    bool runs;          //!< whether the call needs it
    Cubin const* cubin; //!< null where this library has none for the device
    Values values;
    uint32_t blocks[2];
};

struct TritonPlan
{
    Step gate;
    Step main;
    Step close;
    int32_t* count; //!< set to 0 ahead of the gate
};

//! For a call and a configuration that were not rejected, with n > 0.
//! \param device that the call is planned for: sizes and grids follow it
//! \param current that the call runs on: it has the cubins
TritonPlan makeTritonPlan(lccl_conv_params const& params, lccl_device const& device, lccl_device const& current,
    lccl_conv_config const& config, void* workspace);

} // namespace lccl
