"""The configurations of the Triton kernels as data, the forms that each takes, and the choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lccl.op.contract import Attributes

Family = Literal["rows", "boxes"]
SIDE = 8
"""The side of a box in pixels."""
SHARED_KIB = {80: 163, 87: 163, 90: 227, 100: 227, 103: 227}
"""The most shared memory of a block by compute capability; 99 on the others (CUDA C++ Programming
Guide)."""
DENSE_SHARE = 0.85
"""Beyond this share of open cells the kernels go through all of them in order."""
LARGEST_KERNEL = 7
LARGEST_WEIGHTS = 2**31
"""Offsets within weights have 32 bits."""
TENSOR_MEMORY_ACCELERATOR = 90
"""The first compute capability, as 10 * major + minor, whose copies know boxes."""


@dataclass(frozen=True)
class Configuration:
    """One way to compile a family.

    Tiles are in elements: pixels, channels of y, channels of x.
    """

    name: str
    family: Family
    tile_m: int
    tile_n: int
    tile_k: int
    warps: int
    stages: int

    def shared_bytes(self, element_bytes: int) -> int:
        """Return the shared memory of a block that its tiles of x and W take, at most."""
        return (self.tile_m + self.tile_n) * self.tile_k * self.stages * element_bytes


CONFIGURATIONS = (
    Configuration("rows_128x64", "rows", 128, 64, 64, 4, 4),
    Configuration("rows_64x64", "rows", 64, 64, 64, 4, 3),
    Configuration("rows_64x32", "rows", 64, 32, 32, 4, 3),
    Configuration("boxes_2x64x128", "boxes", 2 * SIDE * SIDE, 128, 64, 8, 4),
    Configuration("boxes_2x64x64", "boxes", 2 * SIDE * SIDE, 64, 64, 4, 4),
)


@dataclass(frozen=True)
class Layer:
    """What the choice of a configuration depends on."""

    channels: int
    """C."""
    filters: int
    """K."""
    kernel: tuple[int, int]
    attributes: Attributes
    cells: int
    """N * Hg * Wg."""
    element_bytes: int
    """2 or 4: of T."""
    capability: int
    """Compute capability, as 10 * major + minor."""


def refusal(layer: Layer, family: Family) -> str:
    """Return why a family does not take a layer; empty if it does."""
    if max(layer.kernel) > LARGEST_KERNEL:
        return f"kernels are 1x1 to 7x7, not {layer.kernel[0]}x{layer.kernel[1]}"
    weights = layer.filters * layer.kernel[0] * layer.kernel[1] * layer.channels
    if weights >= LARGEST_WEIGHTS:
        return f"weights are fewer than {LARGEST_WEIGHTS:,}, not {weights:,}"
    if family == "rows":
        return ""
    grid, strides = layer.attributes.grid, layer.attributes.strides
    if layer.capability < TENSOR_MEMORY_ACCELERATOR:
        return f"boxes need compute capability 9.0, not {layer.capability // 10}.{layer.capability % 10}"
    if layer.element_bytes != 2:
        return "boxes are of float16 and bfloat16"
    if grid % SIDE:
        return f"boxes are for grid gates whose G is a multiple of {SIDE}, not {grid}"
    if strides != (1, 1):
        return f"boxes have stride 1, not {strides[0]}x{strides[1]}"
    if layer.channels % 8 or layer.filters % 8:
        return f"boxes need channels in eights, not {layer.channels} and {layer.filters}"
    return ""


def choose(layer: Layer) -> Configuration | None:
    """Return the configuration for a layer; None if no family takes it.

    Boxes come before rows, and a tile no wider than K. Where open cells fill few tiles, smaller
    tiles use more of the GPU.
    """
    for family in ("boxes", "rows"):
        if refusal(layer, family):
            continue
        limit = SHARED_KIB.get(layer.capability, 99) * 1024
        mine = [c for c in CONFIGURATIONS if c.family == family and c.shared_bytes(layer.element_bytes) <= limit]
        if not mine:
            continue
        pixels = layer.cells * layer.attributes.grid**2
        few = pixels * layer.filters < FEW_TILES * mine[0].tile_m * mine[0].tile_n
        for configuration in mine:
            if configuration.tile_n <= max(layer.filters, mine[-1].tile_n) and not (few and configuration is mine[0]):
                return configuration
        return mine[-1]
    return None


FEW_TILES = 132
"""Multiprocessors of an H100 or H200: with fewer tiles than these some have nothing to do."""
