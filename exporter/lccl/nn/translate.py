"""A PyTorch module -> an ONNX model with one LCCLConv node per gated layer, through torch.onnx."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript.values import Op, Opset
from torch import Tensor, nn
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

from lccl.console.quiet import quiet
from lccl.console.text import FIXED_BATCH, FIXED_HW
from lccl.errors import Fix, UserError, first_line, innermost, leave_out
from lccl.nn.call_args import CallArgs, by_signature, call_args
from lccl.nn.folded import fold
from lccl.op.contract import ATTRIBUTES, DOMAIN, INPUT_NAMES, OP_TYPE, QUALIFIED_NAME, VERSION
from lccl.op.onnx_op import OPSET, register_schema
from lccl.op.torch_op import OP, TORCH_ATTRIBUTES, unpack
from lccl.torch_calls import forward_parameters, unwrapped

_WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", OP_TYPE)


def _translate(*arguments: Any, **keywords: Any) -> Any:
    """The translation of ``torch.ops.lccl.conv``: one LCCLConv node, every attribute written."""
    op = Op(Opset(DOMAIN, VERSION), OP_TYPE, register_schema())
    values = dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), arguments, strict=False)) | keywords
    inputs, attributes = unpack(values)
    written = {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.as_dict().items()}
    return op(*(inputs[name] for name in INPUT_NAMES), **written)


def to_onnx(
    model: nn.Module,
    args: Sequence[object] | CallArgs,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_hw: bool = False,
) -> onnx.ModelProto:
    """The model in eval mode as ONNX of opset 18: BatchNorms folded, the batch dynamic.

    Args:
        args: example inputs, positional, also in lists, tuples and dicts; a first dimension of 1
            is fine. Values that are no tensors become constants.
        dynamic_hw: height and width of every 4-D input are dynamic too.

    Raises:
        UserError: torch.onnx cannot export the model; the message carries its reason.
    """
    model = unwrapped(model)
    call = args if isinstance(args, CallArgs) else call_args(args, model)
    axes = [_dynamic(tensor, dynamic_hw, f"_{i}" if i else "") for i, tensor in enumerate(call.tensors)]
    names = {
        "input_names": list(input_names) if input_names else None,
        "output_names": list(output_names) if output_names else None,
    }
    given = call.with_tensors(call.tensors)
    if isinstance(model, torch.jit.ScriptModule):
        if not all(isinstance(value, Tensor) for value in given):
            raise UserError("TorchScript is exported with tensors alone as inputs: export the module that it was made of")
        return _finished(lambda: _script_to_onnx(model, call.tensors, axes, names), dynamic_hw)
    shapes = by_signature(model, call.with_values(axes, others=False))
    if given and isinstance(given[-1], dict):
        given = (*given, {})  # else torch.onnx takes it for arguments by name
    return _finished(lambda: _exported(fold(model), given, dynamic_shapes=shapes, **names), dynamic_hw)


def program_to_onnx(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    """A program of ``torch.export`` as ONNX of opset 18, with the dynamic shapes that it has.

    Raises:
        UserError: torch.onnx cannot export it; the message carries its reason.
    """
    return _finished(lambda: _exported(program, ()), False)


def _finished(export: Callable[[], onnx.ModelProto], dynamic_hw: bool) -> onnx.ModelProto:
    """Run the exporter, name the nodes after layers, and put its error into one sentence."""
    try:
        with quiet(), torch.no_grad():
            proto = export()
    except Exception as error:
        cause = innermost(error)  # the exporter wraps it in pages of advice about itself
        hint, fixes = _hint(cause, dynamic_hw)
        reason = f"{type(cause).__name__}: {first_line(cause)}{hint}"
        raise UserError(f"torch.onnx cannot export this model: {reason}", fixes) from error
    _name_nodes(proto)
    return proto


def _exported(model: nn.Module | torch.export.ExportedProgram, args: tuple[Any, ...], **options: Any) -> onnx.ModelProto:
    program = torch.onnx.export(
        model,
        args,
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        custom_translation_table={OP: _translate},
        **options,
    )
    assert program is not None
    return program.model_proto


def _script_to_onnx(
    model: torch.jit.ScriptModule, args: Sequence[Tensor], axes: Sequence[dict[int, str]], names: dict[str, list[str] | None]
) -> onnx.ModelProto:
    """TorchScript through the older exporter: the newer one does not take it."""
    inputs = names["input_names"] or list(forward_parameters(model))[: len(args)]
    stream = io.BytesIO()
    register_custom_op_symbolic(OP._schema.name, _script_node, OPSET)
    torch.onnx.export(
        model,
        tuple(args),
        stream,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=OPSET,
        input_names=inputs,
        output_names=names["output_names"],
        dynamic_axes=dict(zip(inputs, axes, strict=False)),
        custom_opsets={DOMAIN: VERSION},
    )
    return onnx.load_from_string(stream.getvalue())


def _script_node(graph: Any, *arguments: Any) -> Any:
    """The translation of ``torch.ops.lccl.conv`` in TorchScript, whose attributes are constants."""
    kinds = {spec.name: _LETTERS[spec.kind] for spec in ATTRIBUTES}
    values = {
        name: symbolic_helper._get_const(value, kinds[name], name) if name in kinds else value  # type: ignore[no-untyped-call]
        for name, value in zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), arguments, strict=True)
    }
    inputs, attributes = unpack(values)
    written = {f"{name}_{kinds[name][0]}": value for name, value in attributes.as_dict().items()}
    return graph.op(QUALIFIED_NAME, *(inputs[name] for name in INPUT_NAMES), **written)


_LETTERS = {"int": "i", "ints": "is", "float": "f", "floats": "fs", "string": "s"}
"""Kinds of attributes, as PyTorch's older exporter names them."""


def _hint(error: BaseException, dynamic_hw: bool) -> tuple[str, tuple[Fix, ...]]:
    """What to do about torch.onnx's reason, where it is one that users meet."""
    if "data-dependent" in str(error):
        return "; remove the branch on data, or export the network without it", ()
    fixed = set(re.findall(r"static shape of \d+ for dimension .*\.shape\[(\d)\]", str(error)))
    if "0" in fixed:
        return f"; {FIXED_BATCH}", ()
    return (f"; {FIXED_HW}", (leave_out("dynamic_hw"),)) if dynamic_hw and fixed else ("", ())


def _dynamic(arg: Tensor, dynamic_hw: bool, suffix: str) -> dict[int, str]:
    """Names of the dynamic axes: one batch for all inputs, sizes of each input's own."""
    sizes = {2: f"height{suffix}", 3: f"width{suffix}"} if dynamic_hw and arg.dim() == 4 else {}
    return ({0: "batch"} if arg.dim() else {}) | sizes


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name nodes after their layers in the PyTorch model, and remove paths of this machine."""
    stored = {t.name for t in model.graph.initializer}
    taken = {node.name for node in model.graph.node}
    for node in model.graph.node:
        layer, dot, _ = node.input[1].rpartition(".") if len(node.input) > 1 else ("", "", "")
        if node.op_type in _WEIGHTED_OPS and dot and node.input[1] in stored and layer not in taken:
            node.name = layer
            taken.add(layer)
        del node.metadata_props[:]
    for part in (
        model,
        model.graph,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
    model.graph.doc_string = ""
