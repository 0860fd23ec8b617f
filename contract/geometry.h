// Sizes that follow from other sizes, and the sentences for those that do not fit; for adapters and
// kernels alike.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace lccl
{

//! Size of a convolution's output along one axis; 0 where the input is smaller than the kernel.
constexpr int64_t convSize(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation)
{
    int64_t const span = size + before + after - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

//! Number of gate values along an axis of `size` pixels, where `grid` pixels share one.
constexpr int64_t gateSize(int64_t size, int64_t grid)
{
    return (size + grid - 1) / grid;
}

//! Sizes of the output and of the gate's map; -1: unknown.
struct Maps
{
    int64_t ho, wo, hg, wg;
};

//! The sizes of a call of the CPU or of the CUDA kernels, whose structs name their members alike.
template <typename Params>
constexpr Maps mapsOf(Params const& p)
{
    int64_t const ho = convSize(p.h, p.r, p.strides[0], p.pads[0], p.pads[2], p.dilations[0]);
    int64_t const wo = convSize(p.w, p.s, p.strides[1], p.pads[1], p.pads[3], p.dilations[1]);
    return {ho, wo, gateSize(ho, p.grid), gateSize(wo, p.grid)};
}

//! "3x?": -1 is a size that is not known.
inline std::string sizesText(int64_t h, int64_t w)
{
    auto const text = [](int64_t size) { return size < 0 ? std::string("?") : std::to_string(size); };
    return text(h) + "x" + text(w);
}

//! The sentence for an output without pixels.
inline std::string noPixelText(int64_t h, int64_t w, int64_t r, int64_t s)
{
    return "X of " + sizesText(h, w) + " is smaller than the kernel " + sizesText(r, s) + " with its pads";
}

//! The sentence for a gate whose convolution gives `h` x `w` where an output of `ho` x `wo` needs
//! `hg` x `wg`.
inline std::string gateSizeText(int64_t h, int64_t w, int64_t ho, int64_t wo, int64_t grid, int64_t hg, int64_t wg)
{
    return "the gate's convolution gives " + sizesText(h, w) + ", but an output of " + sizesText(ho, wo)
        + " with G = " + std::to_string(grid) + " needs " + sizesText(hg, wg);
}

//! Why the gate's convolution does not fit the call's output, or an empty string.
template <typename Params>
std::string rejectGateSize(Params const& p, Maps const& maps)
{
    int64_t const h = convSize(p.h, p.gate_r, p.gate_strides[0], p.gate_pads[0], p.gate_pads[2], p.gate_dilations[0]);
    int64_t const w = convSize(p.w, p.gate_s, p.gate_strides[1], p.gate_pads[1], p.gate_pads[3], p.gate_dilations[1]);
    return h == maps.hg && w == maps.wg ? std::string{} : gateSizeText(h, w, maps.ho, maps.wo, p.grid, maps.hg, maps.wg);
}

//! Why a kernel of `r` x `s` is not supported where the largest is `most` x `most`, or an empty
//! string.
inline std::string rejectKernelSize(int64_t r, int64_t s, int64_t most)
{
    bool const fits = r >= 1 && s >= 1 && r <= most && s <= most;
    return fits ? std::string{}
                : "kernels are 1x1 to " + sizesText(most, most) + ", not " + std::to_string(r) + "x" + std::to_string(s);
}

//! Why post_scale and post_bias cannot have these sizes with k output channels, or an empty string;
//! size 0: not there.
inline std::string rejectPostSizes(int64_t scale, int64_t bias, int64_t k)
{
    for (int64_t const size : {scale, bias})
    {
        if (size != 0 && size != 1 && size != k)
        {
            return "post_scale and post_bias have 1 or " + std::to_string(k) + " elements, not " + std::to_string(size);
        }
    }
    return {};
}

} // namespace lccl
