"""The deployed form of a layer, which the exporter traces: norms folded once, one op call."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from lccl.errors.arguments import MODULE, takes
from lccl.nn.conv import LCCLConv2d
from lccl.nn.foldable import can_be_folded
from lccl.op.contract import Attributes
from lccl.op.torch_op import call_op, neutral
from lccl.torch_calls import has_own_train, unwrapped

ModelT = TypeVar("ModelT", bound=nn.Module)


class FoldedLCCLConv2d(nn.Module):
    """An :class:`LCCLConv2d` in eval mode, folded into buffers under the contract's names."""

    def __init__(self, layer: LCCLConv2d) -> None:
        super().__init__()
        constants, self.attributes = layer.fold()
        weight = constants["W"]
        k, c = weight.shape[0], weight.shape[3]
        self.constants = tuple(constants)
        for name in ("gate", "residual"):
            constants[name] = neutral(name, weight, k=k, c=c)
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.detach())

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Apply fn as ``nn.Module`` does, but keep float32 where the contract demands it."""
        float32 = {name: self.get_buffer(name) for name in ("B", "gate_B", "post_scale", "post_bias")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in float32.items():
            after = self.get_buffer(name)
            if after.dtype in (torch.float16, torch.bfloat16):
                self.register_buffer(name, before.to(after.device))
        return self

    def fold(self) -> tuple[dict[str, Tensor], Attributes]:
        """Return the op's constant inputs and attributes, as :meth:`LCCLConv2d.fold` does."""
        return {name: self.get_buffer(name) for name in self.constants}, self.attributes

    def forward(self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Compute y [N, K, Ho, Wo] as :meth:`LCCLConv2d.forward` does in eval mode."""
        constants, attributes = self.fold()
        gate = self.get_buffer("gate") if gate is None else gate
        residual = self.get_buffer("residual") if residual is None else residual
        return call_op(x, constants, attributes, gate, residual)


def _shared(model: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Yield the tensors that a copy for eval mode shares with the model, by their identity.

    Plain attributes too: what weight_norm keeps has a history, and cannot be copied. A module's own
    ``train`` may change its tensors, as that of LoRA layers, so those are copied.
    """
    for module in model.modules():
        if not has_own_train(module):
            held = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
            yield from ((id(tensor), tensor) for tensor in held if isinstance(tensor, Tensor))


@takes(model=MODULE)
def fold(model: ModelT) -> ModelT:
    """Return a copy of the model in eval mode with every LCCLConv2d folded.

    Of a wrapper, such as DataParallel, it is the network inside. All other tensors are shared with
    the original, but for those of modules with a ``train`` of their own. Weights that hooks of
    PyTorch's compute (weight_norm, spectral_norm, pruning) are folded as they are now. A layer
    stays as it is where more runs than folding knows: a subclass's own ``forward`` or ``fold``,
    hooks of yours, a convolution with code of its own.

    Raises:
        UserError: a layer has a norm that cannot be folded.
    """
    copied = cast(ModelT, copy.deepcopy(unwrapped(model), dict(_shared(model))))
    with contextlib.suppress(NotImplementedError):  # a program of torch.export has no modes
        copied.eval()
    replaced: dict[LCCLConv2d, FoldedLCCLConv2d] = {}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(module, LCCLConv2d) and can_be_folded(module):
            if module not in replaced:
                replaced[module] = FoldedLCCLConv2d(module).eval()
            if not name:
                return replaced[module]  # type: ignore[return-value]
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, replaced[module])
    return copied
