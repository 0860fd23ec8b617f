"""Public face of the layers: :class:`LCCLConv2d`, its gate, its folded form, :func:`convert`.

:func:`convert` puts gated layers in place of convolutions of a dense network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lccl.errors.requires import needing

with needing("lccl.nn"):
    from lccl.nn.conv import LCCLConv2d
    from lccl.nn.folded import FoldedLCCLConv2d, fold
    from lccl.nn.gate import Gate

if TYPE_CHECKING:
    from lccl.nn.converting import ConversionPlan, ConvInfo, apply_recipe, convert, recipe

_CONVERTING = ("ConvInfo", "ConversionPlan", "apply_recipe", "convert", "recipe")

__all__ = [
    "ConvInfo",
    "ConversionPlan",
    "FoldedLCCLConv2d",
    "Gate",
    "LCCLConv2d",
    "apply_recipe",
    "convert",
    "fold",
    "recipe",
]


def __getattr__(name: str) -> object:
    """Import a name of :mod:`lccl.nn.converting`, which needs torch.fx, when it is first used."""
    if name in _CONVERTING:
        from lccl.nn import converting

        value: object = getattr(converting, name)
        return value
    raise AttributeError(f"module 'lccl.nn' has no attribute {name!r}")
