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
LARGEST_INDEX = 2**31 - 2**10
"""Indices of pixels, tiles and weights have 32 bits; the rest is the last tile's."""
MOST_FILTERS = 65535 * 64
"""K: a grid has 65535 blocks along its second axis, each for 64 channels of closed pixels."""
BOXES_ON_BLACKWELL = (3, 9)
"""Triton's version that compiles boxes for compute capability 10.x; an assertion of 3.6 fails."""
PROGRAMMATIC_LAUNCH = 90
"""The first compute capability that starts a kernel before the one ahead of it ends."""
TENSOR_MEMORY_ACCELERATOR = 90
"""The first compute capability, as 10 * major + minor, whose copies know boxes."""


@dataclass(frozen=True)
class Configuration:
    """One way to compile a family.

    Tiles are in elements: pixels, channels of y, channels of x.
    """

    number: int
    """Its number in the C++ table, for ever: engines and timing caches keep it."""
    name: str
    family: Family
    tile_m: int
    tile_n: int
    tile_k: int
    warps: int
    stages: int
    part_n: int
    """Channels of y that are finished at a time: tile_n, or a half or a quarter of it."""
    majors: tuple[int, ...] = ()
    """Major compute capabilities for which it compiles without spills; empty: all."""
    element_bytes: tuple[int, ...] = (2,)
    """Of the types for which it does."""

    def shared_bytes(self, element_bytes: int) -> int:
        """Return the shared memory of a block that its tiles of x and W take, at most."""
        return (self.tile_m + self.tile_n) * self.tile_k * self.stages * element_bytes


CONFIGURATIONS = (
    Configuration(6, "rows_128x256", "rows", 128, 256, 64, 8, 3, 64, (9, 10)),
    Configuration(7, "rows_128x128", "rows", 128, 128, 64, 8, 3, 32),
    Configuration(1, "rows_128x64", "rows", 128, 64, 64, 4, 4, 32),
    Configuration(2, "rows_64x64", "rows", 64, 64, 64, 4, 3, 32),
    Configuration(3, "rows_64x32", "rows", 64, 32, 32, 4, 3, 32, element_bytes=(2, 4)),
    Configuration(8, "boxes_2x64x256", "boxes", 2 * SIDE * SIDE, 256, 64, 8, 3, 64, (9,)),
    Configuration(4, "boxes_2x64x128", "boxes", 2 * SIDE * SIDE, 128, 64, 8, 4, 64),
    Configuration(9, "boxes_2x64x128_s3", "boxes", 2 * SIDE * SIDE, 128, 64, 8, 3, 64, (12,)),
    Configuration(5, "boxes_2x64x64", "boxes", 2 * SIDE * SIDE, 64, 64, 4, 4, 64),
)
"""Of each family from wide tiles to small ones."""


def misfit(configuration: Configuration, capability: int, element_bytes: int) -> str:
    """Return why a configuration is not for an architecture and a type; empty if it is.

    Args:
        configuration: which one.
        capability: compute capability, as 10 * major + minor.
        element_bytes: 2 or 4: of T.
    """
    name = configuration.name
    if element_bytes not in configuration.element_bytes:
        return f"{name} is for types of {configuration.element_bytes[0]} bytes, not {element_bytes}"
    if configuration.majors and capability // 10 not in configuration.majors:
        majors = " and ".join(f"{major}.x" for major in configuration.majors)
        return f"{name} is for compute capabilities {majors}, not {_spelt(capability)}"
    if configuration.family == "boxes" and capability < TENSOR_MEMORY_ACCELERATOR:
        return f"boxes need compute capability 9.0, not {_spelt(capability)}"
    limit, needed = SHARED_KIB.get(capability, 99) * 1024, configuration.shared_bytes(element_bytes)
    if needed > limit:
        return f"{name} needs {needed:,} bytes of shared memory, and compute capability {_spelt(capability)} has {limit:,}"
    return ""


def _spelt(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


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
    hw: tuple[int, int]
    """H and W of X."""
    triton: tuple[int, int] = BOXES_ON_BLACKWELL
    """Triton's version, major and minor."""


def refusal(layer: Layer, family: Family) -> str:
    """Return why a family does not take a layer; empty if it does."""
    if max(layer.kernel) > LARGEST_KERNEL:
        return f"kernels are 1x1 to 7x7, not {layer.kernel[0]}x{layer.kernel[1]}"
    for what, number in _indices(layer):
        if number >= LARGEST_INDEX:
            return f"{what} are fewer than {LARGEST_INDEX:,}, not {number:,}"
    if layer.filters > MOST_FILTERS:
        return f"output channels are at most {MOST_FILTERS:,}, not {layer.filters:,}"
    if family == "rows":
        return ""
    grid, strides = layer.attributes.grid, layer.attributes.strides
    if layer.capability < TENSOR_MEMORY_ACCELERATOR:
        return f"boxes need compute capability 9.0, not {_spelt(layer.capability)}"
    if layer.capability // 10 == 10 and layer.triton < BOXES_ON_BLACKWELL:
        wanted, there = (".".join(map(str, version)) for version in (BOXES_ON_BLACKWELL, layer.triton))
        return f"boxes on compute capability {_spelt(layer.capability)} need Triton {wanted}, not {there}"
    if layer.element_bytes != 2:
        return "boxes are of float16 and bfloat16"
    if grid % SIDE:
        return f"boxes are for grid gates whose G is a multiple of {SIDE}, not {grid}"
    if strides != (1, 1):
        return f"boxes have stride 1, not {strides[0]}x{strides[1]}"
    return ""


def _indices(layer: Layer) -> list[tuple[str, int]]:
    """What the kernels count in 32 bits."""
    a, (h, w), (r, s) = layer.attributes, layer.hw, layer.kernel
    pixels = layer.cells * a.grid**2
    return [
        ("weights", layer.filters * r * s * in_eights(layer.channels)),
        ("output pixels, each block of a grid whole,", pixels),
        ("pixels of an image with its pads", (h + sum(a.pads[::2])) * (w + sum(a.pads[1::2]))),
        ("pixels of an image with the gate's pads", (h + sum(a.gate_pads[::2])) * (w + sum(a.gate_pads[1::2]))),
        ("tiles", _tiles(pixels, SMALLEST, layer.filters)),
    ]


def in_eights(channels: int) -> int:
    """Return the least multiple of 8 that holds some channels: a copy of 16 bytes has 8."""
    return -(-channels // 8) * 8


SMALLEST = next(c for c in CONFIGURATIONS if c.name == "rows_64x32")


def _tiles(pixels: int, configuration: Configuration, filters: int) -> int:
    return -(-pixels // configuration.tile_m) * -(-filters // configuration.tile_n)


def choose(layer: Layer) -> Configuration | None:
    """Return the configuration for a layer; None if no family takes it.

    Boxes come before rows. Of those whose tiles give each multiprocessor something to do it is the
    one that computes the fewest channels beyond K, and of these the one with the largest tile.
    """
    for family in ("boxes", "rows"):
        if refusal(layer, family):
            continue
        fitting = [c for c in CONFIGURATIONS if c.family == family and not misfit(c, layer.capability, layer.element_bytes)]
        if fitting:
            pixels = layer.cells * layer.attributes.grid**2
            enough = [c for c in fitting if _tiles(pixels, c, layer.filters) >= FEW_TILES]
            return min(enough or fitting[-1:], key=lambda c: (-(-layer.filters // c.tile_n) * c.tile_n, -c.tile_m * c.tile_n))
    return None


FEW_TILES = 132
"""Multiprocessors of an H100 or H200: with fewer tiles than these some have nothing to do."""
