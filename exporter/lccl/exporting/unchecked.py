"""Any network as ONNX, gated or not, for what reads its shapes alone; nothing is checked."""

from __future__ import annotations

from pathlib import Path

import onnx

from lccl.errors import Fix, UserError
from lccl.graph.inputs import batch_axes, input_types
from lccl.graph.intake import intake
from lccl.loading.onnx import load_onnx
from lccl.op.onnx_op import register_schema


def unchecked_onnx(source: Path, factory: str | None, shape: tuple[int, ...] | None, unsafe_pickle: bool) -> onnx.ModelProto:
    """Return a checkpoint's network, or an ONNX file, as ONNX with the sizes of its inputs.

    Args:
        source: a checkpoint or an ``.onnx`` file.
        factory: "pkg.module:callable", for a checkpoint that does not name its own.
        shape: of the input, batch first, where the file does not say it.
        unsafe_pickle: load a pickled module, which runs code from the file.

    Raises:
        UserError: the file cannot be read, or nothing says the input's shape.
    """
    register_schema()
    if source.suffix == ".onnx":
        return _sized(intake(load_onnx(source)), shape)
    from lccl.exporting.example import example_of_module
    from lccl.loading.torch_file import load_model
    from lccl.nn.translate import to_onnx

    loaded = load_model(source, factory, unsafe_pickle=unsafe_pickle)
    if shape is None and not loaded.input_shape:
        raise UserError(f"{source} does not say its input's shape", Fix("args", (1, 3, 224, 224)))
    example = example_of_module(loaded.module, source, [shape] if shape else [], loaded.input_shape, None)
    assert example.args is not None
    return to_onnx(loaded.module.eval(), example.args)


def _sized(model: onnx.ModelProto, shape: tuple[int, ...] | None) -> onnx.ModelProto:
    """Return an ONNX model with numbers for the sizes of its inputs, but for the batch."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.value_info[:]
    axes, known = batch_axes(out).inputs, input_types(out)
    for value in out.graph.input:
        if value.name not in known:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis == axes[value.name]:
                dim.dim_param = "batch"
            elif shape is not None and len(shape) == len(value.type.tensor_type.shape.dim):
                dim.dim_value = shape[axis]
            else:
                raise UserError(f"the size of input {value.name} is open", Fix("args", (1, 3, 224, 224)))
    return out
