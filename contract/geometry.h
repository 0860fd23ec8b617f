// Sizes that follow from other sizes, and what is said where they do not fit: once, for adapters and for kernels.
#pragma once

#include <cstdint>
#include <string>

namespace lccl
{

//! Size of a convolution's output along one axis; 0 where the input is smaller than the kernel.
constexpr int64_t convSize(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation)
{
    int64_t const span = size + before + after - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

//! Gate values along an axis of `size` pixels, of which `grid` share one.
constexpr int64_t gateSize(int64_t size, int64_t grid)
{
    return (size + grid - 1) / grid;
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

//! The sentence for a gate whose convolution gives `h` x `w` where an output of `ho` x `wo` needs `hg` x `wg`.
inline std::string gateSizeText(int64_t h, int64_t w, int64_t ho, int64_t wo, int64_t grid, int64_t hg, int64_t wg)
{
    return "the gate's convolution gives " + sizesText(h, w) + ", but an output of " + sizesText(ho, wo) + " with G = "
        + std::to_string(grid) + " needs " + sizesText(hg, wg);
}

} // namespace lccl
