"""A PyTorch module as the reference of a check: random inputs, outputs of its own layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from lccl.errors import Fix, UserError, first_line
from lccl.graph.inputs import input_types
from lccl.nn.call_args import CallArgs
from lccl.nn.conv import LCCLConv2d
from lccl.nn.foldable import can_be_folded
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.nn.gate import GateMode
from lccl.nn.plain import plain_maths
from lccl.numerics import Array
from lccl.op.torch_op import OP
from lccl.torch_calls import evaluating, flatten

CHECK_BATCH = 3
"""Random samples of a check, one more if the example has as many: a batch size frozen into the
graph then shows."""


class TorchReference:
    """The module in eval mode with its example inputs.

    Args:
        model: the module.
        call: how it is called, with the example.
        dynamic_hw: whether height and width are dynamic too.
    """

    def __init__(self, model: nn.Module, call: CallArgs, dynamic_hw: bool) -> None:
        self._model, self._call, self._dynamic_hw = model, call, dynamic_hw
        self._tensors = call.tensors
        self.traced_with_two = False
        """Whether the trace was of two samples, so that one is checked as well."""
        self.example_hw = tuple(tuple(a.shape[2:]) for a in self._tensors) if dynamic_hw else None
        self.checks: tuple[GateMode, ...] = () if any(map(_has_fixed_gates, model.modules())) else ("open", "relaxed")

    def run_example(self) -> Any:
        """The outputs of the example.

        Raises:
            UserError: the module does not run on it.
        """
        try:
            return self._run(self._tensors, "an input")
        except UserError as error:
            unbatched = [list(a.shape) for a in self._tensors if a.dim() == 3]
            if not unbatched:
                raise
            fixes = (Fix("args", (1, *unbatched[0])), *error.fixes)
            raise UserError(f"{error.message}; an example input includes the batch", fixes) from None

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Random inputs of another batch and, if dynamic, of twice the height and width."""
        names = list(input_types(model))
        feeds = [self._random(names, factor) for factor in ((1, 2) if self._dynamic_hw else (1,))]
        one = (
            [{name: values[:1] if values.ndim else values for name, values in feeds[0].items()}] if self.traced_with_two else []
        )
        return feeds + one  # a branch on the batch shows

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:
        """The outputs of PyTorch's own layers, unfolded, so that a mistake in folding shows."""
        args = tuple(torch.from_numpy(v).to(arg.device) for v, arg in zip(feed.values(), self._tensors, strict=True))
        with plain_maths(self._model, gates):
            outputs = self._run(args, "inputs")
        return [tensor.cpu().numpy() for tensor in flatten(outputs)]

    def _run(self, args: tuple[Tensor, ...], what: str) -> Any:
        try:
            with evaluating(self._model), torch.no_grad():
                return self._model(*self._call.with_tensors(args))
        except UserError:
            raise
        except Exception as error:
            shapes = ", ".join(str(list(a.shape)) for a in args)
            raise UserError(f"the model does not run on {what} of shape {shapes}: {first_line(error)}") from error

    def _random(self, names: list[str], factor: int) -> dict[str, Array]:
        """Every size times the factor.

        Inputs of several sizes keep their ratio, which models may need.
        """
        generator = torch.Generator().manual_seed(factor)
        given = next((len(tensor) for tensor in self._tensors if tensor.dim()), 0)
        batch = CHECK_BATCH + (given == CHECK_BATCH)
        return {
            name: _random_like(tensor, batch, factor, generator).cpu().numpy()
            for name, tensor in zip(names, self._tensors, strict=True)
        }


def _random_like(example: Tensor, batch: int, factor: int, generator: torch.Generator) -> Tensor:
    """Random values for an input, in place of an example; whole numbers are the example's own."""
    if not example.dim():
        if not example.is_floating_point():
            return example
        # Of the example's sign and size, since it may stand under a root or be a divisor.
        near = 0.5 + torch.rand((), generator=generator)
        return (near * (example.cpu() if example else 1)).to(example.dtype)
    shape = [batch, *example.shape[1:]]
    if example.dim() == 4:
        shape[2:] = [shape[2] * factor, shape[3] * factor]
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.dtype)
    return example[:1].repeat(batch, *(new // old for new, old in zip(shape[1:], example.shape[1:], strict=True)))


def _has_fixed_gates(module: nn.Module) -> bool:
    """Whether the gates of a module cannot be opened for a check, in the module or in its file.

    A module that calls the op by itself is one; so is a layer that is not folded, whose file has
    other ops than the LCCLConv nodes that the check opens.
    """
    if isinstance(module, fx.GraphModule):
        return any(node.target is OP for node in module.graph.nodes)
    if isinstance(module, LCCLConv2d):
        return not can_be_folded(module)
    return isinstance(module, (FoldedLCCLConv2d, torch.jit.ScriptModule))
