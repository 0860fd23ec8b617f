"""Checks of a model before it is written or built from, as far as they need no run of it."""

from __future__ import annotations

import onnx

from lccl.errors import UserError, first_line
from lccl.files.protos import skeleton_of


def check_model(model: onnx.ModelProto) -> None:
    """Run onnx's full check and strict shape inference on the model without its large weights.

    Raises:
        UserError: the model does not pass.
    """
    skeleton = skeleton_of(model)[0]
    try:
        onnx.checker.check_model(skeleton, full_check=True)
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"the model does not pass onnx's check: {first_line(error)}") from error


def check_types(model: onnx.ModelProto, view: onnx.ModelProto) -> None:
    """Check a form of the model that no runtime here runs.

    It has to pass onnx's check, and its outputs keep their types.

    Args:
        model: the model that the form was made of.
        view: the form.

    Raises:
        UserError: it does not.
    """
    untyped = onnx.ModelProto()
    untyped.CopyFrom(view)
    for value in untyped.graph.output:
        value.type.Clear()
    try:
        onnx.checker.check_model(view)
        inferred = onnx.shape_inference.infer_shapes(untyped)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"the converted model does not pass onnx's check: {first_line(error)}") from error
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        wanted, element = value.type.tensor_type.elem_type, found.type.tensor_type.elem_type
        if element not in (wanted, onnx.TensorProto.UNDEFINED):
            names = [onnx.TensorProto.DataType.Name(t) for t in (element, wanted)]
            raise UserError(
                f"the converted model's output {value.name} is {names[0]} instead of {names[1]}; nothing was written"
            )
