"""Whether folding knows all that a call of a layer runs."""

from __future__ import annotations

from lccl.nn.conv import LCCLConv2d
from lccl.nn.parts import has_own_hooks, is_set_from_outside, own_code


def can_be_folded(layer: LCCLConv2d) -> bool:
    """Return whether folding knows all that a call of the layer runs.

    A subclass, hooks or other code around the layer may change what it computes, or its weights.
    """
    plain = type(layer).forward is LCCLConv2d.forward and type(layer).fold is LCCLConv2d.fold and "forward" not in vars(layer)
    outside = any(is_set_from_outside(part) for part in layer.modules())
    return plain and not outside and not has_own_hooks(layer) and not own_code(layer.parts())
