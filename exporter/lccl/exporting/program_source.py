"""A program of ``torch.export`` as the source of an export.

It runs on inputs of its own example's shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import onnx
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from lccl.backends.batch_ranges import common_batches
from lccl.backends.batches import infer_all
from lccl.backends.interface import Batches
from lccl.console.progress import Progress
from lccl.errors import UserError, first_line
from lccl.exporting.source import Reference
from lccl.exporting.torch_source import BFLOAT16
from lccl.graph.batch_axes import find_batch_axes
from lccl.graph.inputs import input_types
from lccl.nn.call_args import CallArgs, call_args
from lccl.nn.translate import program_to_onnx
from lccl.numerics import Array
from lccl.torch_calls import flatten

if TYPE_CHECKING:
    from lccl.nn.gate import GateMode


class ProgramSource:
    """The program with the example inputs that it was exported with.

    Raises:
        UserError: it has no positional example inputs, or does not run on them.
    """

    checks: tuple[GateMode, ...] = ()
    example_hw: tuple[tuple[int, ...], ...] | None = None

    def __init__(self, program: torch.export.ExportedProgram, progress: Progress) -> None:
        self.metadata = {"lccl.torch": str(torch.__version__)}
        self._program, self._progress = program, progress
        args, kwargs = program.example_inputs or ((), {})
        call = call_args(args)
        if not call.tensors or kwargs:
            raise UserError("the program has no example inputs that are tensors by position: export it again with torch.export")
        if any(a.dtype == torch.bfloat16 for a in call.tensors):
            raise UserError(BFLOAT16)
        self._args = call.tensors
        self._runner = _ProgramRunner(program, call)
        self.constants = call.constants(program.module())
        self.trained_densities: dict[str, float] = {}

    @property
    def reference(self) -> Reference:
        """The program itself."""
        return self

    def to_onnx(self) -> onnx.ModelProto:
        """The program as ONNX."""
        self._progress("translating the program")
        return program_to_onnx(self._program)

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Random inputs of the example's shapes."""
        generator = torch.Generator().manual_seed(0)
        feed = {}
        for name, arg in zip(input_types(model), self._args, strict=True):
            random = torch.randn(arg.shape, generator=generator).to(arg.dtype) if arg.is_floating_point() else arg
            feed[name] = random.cpu().numpy()
        return [feed]

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:  # noqa: ARG002 - it cannot change its gates
        """The program's own outputs."""
        return list(infer_all(self._runner, feed).values())


class _ProgramRunner:
    """The program, of as many samples at a time as it was exported for."""

    name, device = "torch", "CPU"

    def __init__(self, program: torch.export.ExportedProgram, call: CallArgs) -> None:
        self._module, self._call = program.module(), call
        inputs = {s.arg.name for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT}
        given = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs}
        given = {name: value for name, value in given.items() if isinstance(value, Tensor)}  # others are constants
        self.input_names = tuple(given)
        shapes = {name: value.shape if isinstance(value, Tensor) else () for name, value in given.items()}
        self.axes = find_batch_axes({name: list(map(_size, shape)) for name, shape in shapes.items()}, {})
        places = {name: axis for name, axis in self.axes.inputs.items() if axis is not None}
        self.batches = common_batches([_batches(shapes[name][axis], program) for name, axis in places.items()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            with torch.no_grad():
                outputs = self._module(*self._call.with_tensors([torch.from_numpy(v) for v in feed.values()]))
        except Exception as error:
            shapes = ", ".join(str(list(v.shape)) for v in feed.values())
            raise UserError(f"the program does not run on inputs of shape {shapes}: {first_line(error)}") from error
        return {f"output_{i}": tensor.cpu().numpy() for i, tensor in enumerate(flatten(outputs))}


def _size(size: int | torch.SymInt) -> int | str:
    """A fixed size, or the name of a dynamic one."""
    return size if isinstance(size, int) else str(size.node.expr)


def _batches(size: int | torch.SymInt, program: torch.export.ExportedProgram) -> Batches:
    """What the batch's dimension allows: its own size, or the range of its symbol."""
    if isinstance(size, int):
        return Batches(size, size)
    limits = program.range_constraints.get(size.node.expr)
    if limits is None:
        return Batches()
    return Batches(max(1, int(limits.lower)), int(limits.upper) if limits.upper < _NO_LIMIT else None)


_NO_LIMIT = 2**31
"""What torch.export writes for a size without a bound is more."""
