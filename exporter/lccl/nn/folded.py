"""The deployed form of a layer: norms folded once, nothing left but one op. What the exporter traces."""

from __future__ import annotations

import copy
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from lccl.nn.conv import LCCLConv2d, call_op
from lccl.op.contract import Attributes
from lccl.op.torch_op import neutral

ModelT = TypeVar("ModelT", bound=nn.Module)


class FoldedLCCLConv2d(nn.Module):
    """An :class:`LCCLConv2d` in eval mode with its norms folded: buffers under the contract's names, one op call."""

    def __init__(self, layer: LCCLConv2d) -> None:
        super().__init__()
        fixed, self.attributes = layer.fold()
        weight = fixed["W"]
        k, c = weight.shape[0], weight.shape[3]
        self.constants = tuple(fixed)
        for name in ("gate", "residual"):
            fixed[name] = neutral(name, weight, k=k, c=c)
        for name, tensor in fixed.items():
            self.register_buffer(name, tensor.detach())

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As ``nn.Module``, but ``half()`` and its like leave float32 what the contract has in float32."""
        wide = {name: self.get_buffer(name) for name in ("B", "gate_B", "post_scale", "post_bias")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in wide.items():
            after = self.get_buffer(name)
            if after.dtype in (torch.float16, torch.bfloat16):
                self.register_buffer(name, before.to(after.device))
        return self

    def fold(self) -> tuple[dict[str, Tensor], Attributes]:
        """As :meth:`LCCLConv2d.fold`."""
        return {name: self.get_buffer(name) for name in self.constants}, self.attributes

    def forward(self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """As :meth:`LCCLConv2d.forward` in eval mode."""
        constants, attributes = self.fold()
        gate = self.get_buffer("gate") if gate is None else gate
        residual = self.get_buffer("residual") if residual is None else residual
        return call_op(x, constants, attributes, gate, residual)


def _is_plain(layer: LCCLConv2d) -> bool:
    """Whether the layer computes what this class does, and not what a subclass made of it."""
    return type(layer).forward is LCCLConv2d.forward and type(layer).fold is LCCLConv2d.fold


def fold(model: ModelT) -> ModelT:
    """A copy of the model in eval mode with every LCCLConv2d folded; all other tensors are shared with the original."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    copied.eval()
    replaced: dict[LCCLConv2d, FoldedLCCLConv2d] = {}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(module, LCCLConv2d) and _is_plain(module):
            if module not in replaced:
                replaced[module] = FoldedLCCLConv2d(module).eval()
            if not name:
                return replaced[module]  # type: ignore[return-value]
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, replaced[module])
    return copied
