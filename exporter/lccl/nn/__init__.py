"""What users build LCCL networks with: :class:`LCCLConv2d` and its gate; and :func:`convert`, which gates a dense network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lccl.requires import needing

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


def __getattr__(name: str) -> Any:
    """The names of :mod:`lccl.nn.converting`, which needs torch.fx, when they are first used."""
    if name in _CONVERTING:
        from lccl.nn import converting

        return getattr(converting, name)
    raise AttributeError(f"module 'lccl.nn' has no attribute {name!r}")
