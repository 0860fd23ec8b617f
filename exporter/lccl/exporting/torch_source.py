"""A PyTorch module as the source of an export: checked, and traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn

from lccl.console.progress import Progress
from lccl.errors import Fix, UserError
from lccl.exporting.torch_reference import TorchReference
from lccl.nn.call_args import call_args
from lccl.nn.conv import LCCLConv2d
from lccl.nn.densities import trained_densities
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.nn.translate import to_onnx
from lccl.torch_calls import unsound_weight, unwrapped

BFLOAT16 = (
    "a bfloat16 model cannot be checked in ONNX Runtime: export it in float32, and choose bf16 as the precision when you build "
    "the engine, with lccl build-engine or lccl.build_engine"
)


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
        self.reference = TorchReference(model, self._call, dynamic_hw)
        layers = [m for m in model.modules() if isinstance(m, (LCCLConv2d, FoldedLCCLConv2d))]
        if any(t.dtype == torch.bfloat16 for t in (*model.parameters(), *self._tensors)):
            raise UserError(BFLOAT16)
        if any(t.dtype == torch.float64 for m in layers for t in m.state_dict().values()):
            raise UserError("the op has no float64: export the model in float32, after model.float(), with inputs of float32")
        broken = unsound_weight(model)
        if broken is not None:
            raise UserError(f"the model's {broken}; the training went wrong: use an earlier checkpoint")
        progress("running the model once")
        outputs = self.reference.run_example()
        if self._output_names is None and isinstance(outputs, Mapping) and all(isinstance(v, Tensor) for v in outputs.values()):
            self._output_names = [str(name) for name in outputs]

    def to_onnx(self) -> onnx.ModelProto:
        """The traced model."""
        self._progress("tracing the model")
        names = {"input_names": self._input_names, "output_names": self._output_names}
        traced = to_onnx(self.model, self._call, dynamic_hw=self._dynamic_hw, **names)
        batched = [tensor for tensor in self._tensors if tensor.dim()]
        if not batched or not all(len(tensor) == 1 for tensor in batched) or not _fixes_a_batch_of_1(traced):
            return traced
        self.reference.traced_with_two = True
        twice = self._call.with_tensors([t.repeat(2, *(1,) * (t.dim() - 1)) if t.dim() else t for t in self._tensors])
        return to_onnx(self.model, twice, dynamic_hw=self._dynamic_hw, **names)


def _fixes_a_batch_of_1(model: onnx.ModelProto) -> bool:
    """Whether torch took a batch of 1 for a fixed size somewhere, although it is dynamic."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.output]
    return any(dims and dims[0].HasField("dim_value") and dims[0].dim_value == 1 for dims in shapes)
