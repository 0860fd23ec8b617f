"""The benchmark's layers, and what each is run with.

No PyTorch: plans and predictions need none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lccl.backends.torch.cuda.interface import ConvParams
    from lccl.op.contract import Attributes

LARGE_CHANNELS, LARGE_SIZES, LARGE_BATCHES = (64, 128, 256), (160, 320, 512), (1, 8)
RESNET = ((64, 56), (128, 28), (256, 14), (512, 7))
"""Channels and size of the layers of stride 1 in ResNet-18, 34 and 50."""
RESNET_HALVING = ((64, 56, 128), (128, 28, 256), (256, 14, 512), (128, 56, 128), (256, 28, 256), (512, 14, 512))
"""Channels, size and output channels of those of stride 2: three of ResNet-18 and 34, three of
ResNet-50."""
RESNET_BATCHES = (32, 8, 128, 1)
"""Most important first."""
DENSITIES = (0.25, 0.5, 0.35, 0.65, 0.1, 0.8, 1.0)
"""In the order in which they are measured."""
MASKS = ((8, "iid"), (1, "iid"), (1, "clustered"), (4, "iid"), (16, "iid"))
"""Grid, and how its cells are drawn; most important first."""
FORMS = ("fused", "external")
"""Of the gate."""
QUICK_LAYERS = ((128, 28, 32), (64, 56, 32), (128, 160, 1), (256, 14, 32))
QUICK_DENSITIES = (0.25, 0.35, 0.5, 0.65)
QUICK_MASKS = ((8, "iid"), (1, "iid"))


@dataclass(frozen=True)
class Layer:
    """A 3x3 convolution with a pad of 1, which at stride 1 keeps its size."""

    channels: int
    size: int
    """Of the input."""
    batch: int
    outputs: int = 0
    """Output channels; 0: as many as channels."""
    stride: int = 1

    @property
    def name(self) -> str:
        outputs = f"-{self.outputs}" if self.outputs else ""
        return f"{self.channels}{outputs}@{self.size}{f's{self.stride}' if self.stride > 1 else ''} b{self.batch}"

    @property
    def out_channels(self) -> int:
        return self.outputs or self.channels

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    @property
    def flops(self) -> float:
        """Of the convolution with every pixel computed, a multiply-accumulate counted as two."""
        return 2.0 * self.batch * self.out_size**2 * self.channels * self.out_channels * 9

    @property
    def bytes(self) -> float:
        """Of the input, the output and the weights in float16."""
        pixels_in, pixels_out = self.batch * self.size**2, self.batch * self.out_size**2
        return 2.0 * (pixels_in * self.channels + pixels_out * self.out_channels + 9 * self.channels * self.out_channels)


@dataclass(frozen=True)
class Setting:
    """What a layer is run with."""

    layer: Layer
    grid: int
    mask: str
    """iid or clustered, of cells."""
    external: bool
    density: float

    @property
    def form(self) -> str:
        return "external" if self.external else "fused"

    @property
    def words(self) -> str:
        return f"{self.layer.name} G={self.grid} {self.mask} {self.form} {self.density}"

    def attributes(self) -> Attributes:
        """ReLU of the convolution, times a gate of kernel 1x1 or from outside."""
        from lccl.backends.torch.cuda.planning import layer_attributes

        return layer_attributes(
            (3, 3), stride=self.layer.stride, grid=self.grid, activation_alpha=0.0, density=self.density, external=self.external
        )

    def as_dict(self) -> dict[str, Any]:
        """As a row of the benchmark has it."""
        layer = self.layer
        sizes = {"layer": layer.name, "channels": layer.channels, "size": layer.size, "batch": layer.batch}
        sizes |= {"outputs": layer.out_channels, "stride": layer.stride}
        return sizes | {"grid": self.grid, "mask": self.mask, "form": self.form, "density": self.density}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Setting:
        """The setting of a row of the benchmark."""
        outputs = row["outputs"] if row["outputs"] != row["channels"] else 0
        layer = Layer(row["channels"], row["size"], row["batch"], outputs, row["stride"])
        return cls(layer, row["grid"], row["mask"], row["form"] == "external", row["density"])

    def params(self) -> ConvParams:
        """The call without its tensors, in float16."""
        from lccl.backends.torch.cuda.interface import Dtype
        from lccl.backends.torch.cuda.planning import conv_params, layer_shapes

        attributes, layer = self.attributes(), self.layer
        x = (layer.batch, layer.channels, layer.size, layer.size)
        shapes = layer_shapes(x, layer.out_channels, (3, 3), attributes, external=self.external)
        return conv_params(shapes, attributes, Dtype.FLOAT16)


def layers_of(texts: Sequence[str] | None, quick: bool) -> list[Layer]:
    """Layers as the command line has them, else all or the quick ones, most important first.

    Raises:
        UserError: one that is written otherwise.
    """
    if texts:
        return [_layer_of(text) for text in texts]
    if quick:
        return [Layer(*numbers) for numbers in QUICK_LAYERS]
    resnet = [Layer(c, size, batch) for batch in RESNET_BATCHES for c, size in RESNET]
    large = [Layer(c, size, batch) for batch in LARGE_BATCHES for size in LARGE_SIZES for c in LARGE_CHANNELS]
    halving = [Layer(c, size, batch, k if k != c else 0, 2) for batch in RESNET_BATCHES for c, size, k in RESNET_HALVING]
    return resnet + large + halving


def _layer_of(text: str) -> Layer:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?@(\d+)(?:s(\d+))?x(\d+)", text)
    numbers = [int(number) for number in match.groups(default="1")] if match else [0]
    if match is None or min(numbers) < 1:
        from lccl.errors import UserError

        raise UserError(
            "a layer is written like 64@56x8 (channels@size x batch), or 64-128@56s2x8 with other output channels and "
            f"a stride, not {text!r}"
        )
    channels, outputs, size, stride, batch = numbers
    return Layer(channels, size, batch, outputs if match[2] else 0, stride)


def settings_of(
    layers: Sequence[Layer], densities: Sequence[float], masks: Iterable[tuple[int, str]], forms: Sequence[str]
) -> list[Setting]:
    """Everything to measure, breadth first: every layer at one density, then at the next."""
    kinds = [(grid, kind, form) for grid, kind in masks for form in forms]
    return [
        Setting(layer, grid, kind, form == "external", density)
        for density in densities
        for grid, kind, form in kinds
        for layer in layers
        if grid <= layer.out_size
    ]
