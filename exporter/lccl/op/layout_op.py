"""The private ops of the ONNX Runtime backend, which have a choice of layout.

``lccl.ort::LCCLConv`` is the contract's op, and ``lccl.ort::Conv`` a convolution without a gate. X,
the residual and Y may have their channels innermost. Both have the contract's inputs and
attributes, and three permutations as ONNX's ``Transpose`` takes them; those of ``Conv`` for the
gate are neutral. Their functions in the model are standard ops and ``lccl::LCCLConv``, so that a
file with such nodes runs without the library, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, helper

from lccl.op.contract import ATTRIBUTES, DOMAIN, INPUT_NAMES, OP_TYPE, OUTPUT_NAME, VERSION, Attributes
from lccl.op.onnx_function import dense_nodes
from lccl.op.onnx_op import KINDS, OPSET, attribute_protos

LAYOUT_DOMAIN = "lccl.ort"
LAYOUT_VERSION = 1
DENSE_OP = "Conv"
"""The op without a gate."""
SAME = (0, 1, 2, 3)
TO_NCHW = (0, 3, 1, 2)
"""[N, H, W, C] -> [N, C, H, W]."""
FROM_NCHW = (0, 2, 3, 1)


def permutations(x_channels_last: bool, y_channels_last: bool) -> dict[str, list[int]]:
    """Return the attributes that say the layouts; the residual has that of Y."""
    return {
        "x_to_nchw": list(TO_NCHW if x_channels_last else SAME),
        "residual_to_nchw": list(TO_NCHW if y_channels_last else SAME),
        "y_from_nchw": list(FROM_NCHW if y_channels_last else SAME),
    }


def layouts_of(attributes: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether X, and whether Y and the residual, have their channels innermost."""
    return tuple(attributes["x_to_nchw"]) == TO_NCHW, tuple(attributes["y_from_nchw"]) == FROM_NCHW


def attach_layout_functions(model: onnx.ModelProto) -> None:
    """Add the function bodies and the domain's import to a model, in place of earlier ones."""
    kept = [f for f in model.functions if f.domain != LAYOUT_DOMAIN]
    del model.functions[:]
    model.functions.extend([*kept, _gated_function(), _dense_function()])
    if LAYOUT_DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(LAYOUT_DOMAIN, LAYOUT_VERSION))


def _gated_function() -> FunctionProto:
    inner = [{"X": "x", "residual": "added"}.get(name, name) for name in INPUT_NAMES]
    call = helper.make_node(OP_TYPE, inner, ["y"], domain=DOMAIN)
    call.attribute.extend(AttributeProto(name=s.name, ref_attr_name=s.name, type=KINDS[s.kind]) for s in ATTRIBUTES)
    return _function(OP_TYPE, [call], f"{DOMAIN}::{OP_TYPE} version {VERSION} with a choice of layout")


def _dense_function() -> FunctionProto:
    return _function(DENSE_OP, [*dense_nodes("x", "added", "y")], "a convolution without a gate, with a choice of layout")


def _function(name: str, body: list[onnx.NodeProto], doc: str) -> FunctionProto:
    defaults = [helper.make_attribute(key, value) for key, value in permutations(False, False).items()]
    return helper.make_function(
        LAYOUT_DOMAIN,
        name,
        list(INPUT_NAMES),
        [OUTPUT_NAME],
        [
            _transpose("X", "x", "x_to_nchw"),
            _transpose("residual", "added", "residual_to_nchw"),
            *body,
            _transpose("y", OUTPUT_NAME, "y_from_nchw"),
        ],
        [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        attribute_protos=[*attribute_protos(Attributes()), *defaults],
        doc_string=doc,
    )


def _transpose(source: str, target: str, permutation: str) -> onnx.NodeProto:
    node = helper.make_node("Transpose", [source], [target])
    node.attribute.append(AttributeProto(name="perm", ref_attr_name=permutation, type=AttributeProto.INTS))
    return node
