"""A PyTorch module as the source of an export: traced, and run for the outputs to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from lccl.console.progress import Progress
from lccl.errors import Fix, UserError, first_line
from lccl.graph.inputs import input_types
from lccl.nn.call_args import call_args
from lccl.nn.conv import LCCLConv2d
from lccl.nn.densities import trained_densities
from lccl.nn.foldable import can_be_folded
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.nn.gate import GateMode
from lccl.nn.plain import plain_maths
from lccl.nn.translate import to_onnx
from lccl.numerics import Array
from lccl.op.torch_op import OP
from lccl.torch_calls import evaluating, flatten, unsound_weight, unwrapped

BFLOAT16 = (
    "a bfloat16 model cannot be checked in ONNX Runtime: export it in float32, and choose bf16 as the precision when you build "
    "the engine, with lccl build-engine or lccl.build_engine"
)
CHECK_BATCH = 3
"""Random samples of a check, one more if the example has as many: a batch size frozen into the
graph then shows."""


class TorchSource:
    """The module in eval mode with its example inputs.

    Args:
        model: the module.
        args: positional example inputs: tensors, also in lists, tuples and dicts, and values that
            become constants.
        input_names: names of the ONNX model's inputs.
        output_names: names of the ONNX model's outputs.
        dynamic_hw: make height and width dynamic too.
        progress: called with each step.

    Raises:
        UserError: the weights hold NaN or infinity, or the module does not run on the example.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Sequence[object],
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
        dynamic_hw: bool,
        progress: Progress,
    ) -> None:
        model = unwrapped(model)
        self.model = model
        self._call = call_args(args, model)
        self._tensors = self._call.tensors
        if not self._tensors:
            raise UserError("exporting a module needs an example input that is a tensor", Fix("args", (1, 3, 224, 224)))
        self.constants = self._call.constants(model)
        self.trained_densities = trained_densities(model)
        self.metadata = {"lccl.torch": str(torch.__version__)}
        self._input_names, self._output_names = input_names, output_names
        self._dynamic_hw, self._progress = dynamic_hw, progress
        self._traced_with_two = False
        self.example_hw = tuple(tuple(a.shape[2:]) for a in self._tensors) if dynamic_hw else None
        layers = [m for m in model.modules() if isinstance(m, (LCCLConv2d, FoldedLCCLConv2d))]
        self.checks: tuple[GateMode, ...] = () if any(map(_has_fixed_gates, model.modules())) else ("open", "relaxed")
        if any(t.dtype == torch.bfloat16 for t in (*model.parameters(), *self._tensors)):
            raise UserError(BFLOAT16)
        if any(t.dtype == torch.float64 for m in layers for t in m.state_dict().values()):
            raise UserError("the op has no float64: export the model in float32, after model.float(), with inputs of float32")
        broken = unsound_weight(model)
        if broken is not None:
            raise UserError(f"the model's {broken}; the training went wrong: use an earlier checkpoint")
        progress("running the model once")
        outputs = self._run_example()
        if self._output_names is None and isinstance(outputs, Mapping) and all(isinstance(v, Tensor) for v in outputs.values()):
            self._output_names = [str(name) for name in outputs]

    def _run_example(self) -> Any:
        try:
            return self._run(self._tensors, "an input")
        except UserError as error:
            unbatched = [list(a.shape) for a in self._tensors if a.dim() == 3]
            if not unbatched:
                raise
            fixes = (Fix("args", (1, *unbatched[0])), *error.fixes)
            raise UserError(f"{error.message}; an example input includes the batch", fixes) from None

    def to_onnx(self) -> onnx.ModelProto:
        """The traced model."""
        self._progress("tracing the model")
        names = {"input_names": self._input_names, "output_names": self._output_names}
        traced = to_onnx(self.model, self._call, dynamic_hw=self._dynamic_hw, **names)
        batched = [tensor for tensor in self._tensors if tensor.dim()]
        if not batched or not all(len(tensor) == 1 for tensor in batched) or not _fixes_a_batch_of_1(traced):
            return traced
        self._traced_with_two = True
        twice = self._call.with_tensors([t.repeat(2, *(1,) * (t.dim() - 1)) if t.dim() else t for t in self._tensors])
        return to_onnx(self.model, twice, dynamic_hw=self._dynamic_hw, **names)

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Random inputs of another batch and, if dynamic, of twice the height and width."""
        names = list(input_types(model))
        feeds = [self._random(names, factor) for factor in ((1, 2) if self._dynamic_hw else (1,))]
        one = (
            [{name: values[:1] if values.ndim else values for name, values in feeds[0].items()}]
            if self._traced_with_two
            else []
        )
        return feeds + one  # a branch on the batch shows

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:
        """The outputs of PyTorch's own layers, unfolded, so that a mistake in folding shows."""
        args = tuple(torch.from_numpy(v).to(arg.device) for v, arg in zip(feed.values(), self._tensors, strict=True))
        with plain_maths(self.model, gates):
            outputs = self._run(args, "inputs")
        return [tensor.cpu().numpy() for tensor in flatten(outputs)]

    def _run(self, args: tuple[Tensor, ...], what: str) -> Any:
        try:
            with evaluating(self.model), torch.no_grad():
                return self.model(*self._call.with_tensors(args))
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


def _fixes_a_batch_of_1(model: onnx.ModelProto) -> bool:
    """Whether torch took a batch of 1 for a fixed size somewhere, although it is dynamic."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.output]
    return any(dims and dims[0].HasField("dim_value") and dims[0].dim_value == 1 for dims in shapes)
