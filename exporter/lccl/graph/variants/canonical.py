"""Any model with LCCLConv nodes -> the canonical model.

Constants are folded, every attribute is written, and the op's function is in the model.
"""

from __future__ import annotations

import itertools
from typing import TypeGuard

import onnx
import onnx_graphsurgeon as gs

from lccl.errors import ContractError, UserError
from lccl.graph.constants import constant, fold_constants, value_of
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.fold import fold_batch_norms
from lccl.graph.nodes import attributes_of, is_lccl
from lccl.graph.opset import in_own_opset
from lccl.op.contract import DOMAIN, INPUTS, OP_TYPE, OPTIONAL_INPUTS, VERSION, Attributes, check_geometry, output_shape
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import OPSET


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in the form that this project writes; the given model is not changed.

    Raises:
        UserError: the model has no LCCLConv node, a node breaks the contract, or a version of the
            op or of ONNX is not supported.
    """
    _require_version(model)
    model = in_own_opset(model)
    graph = to_graph(model)
    nodes = [n for n in graph.nodes if is_lccl(n)]
    if not nodes:
        raise UserError(
            f"the model has no {OP_TYPE} node, so there is nothing to gain: gate a convolution with lccl.nn.LCCLConv2d"
        )
    fold_constants(graph)
    fold_batch_norms(graph)
    gated = [n for n in graph.nodes if is_lccl(n)]
    _name_uniquely(graph, gated)
    for node in gated:
        _complete(node)
    _share_neutral_inputs(graph)
    graph.opset = OPSET
    out = to_model(graph, model)
    attach_function(out)
    return out


def _require_version(model: onnx.ModelProto) -> None:
    version = next((o.version for o in model.opset_import if o.domain == DOMAIN), VERSION)
    if version != VERSION:
        raise UserError(f"the model uses {OP_TYPE} version {version}; this lccl knows version {VERSION}: update lccl")


def _complete(node: gs.Node) -> None:
    """Write out all attributes, and check the inputs' known shapes against the contract."""
    try:
        attributes = attributes_of(node)
        if len(node.inputs) != len(INPUTS):
            raise ContractError(f"{OP_TYPE} takes all {len(INPUTS)} inputs, not {len(node.inputs)}")
        _check_shapes({spec.name: _shape(t) for spec, t in zip(INPUTS, node.inputs, strict=True)}, attributes)
    except ContractError as error:
        raise UserError(f"node {node.name}: {error.message}", error.fixes) from None
    node.attrs = {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.as_dict().items()}


def _name_uniquely(graph: gs.Graph, gated: list[gs.Node]) -> None:
    """Give each gated node a name of its own: reports, probes and side-cars refer to it."""
    taken = [n.name for n in graph.nodes if n.name]
    for node in gated:
        if not node.name or taken.count(node.name) > 1:
            number = next(i for i in itertools.count() if f"{OP_TYPE}_{i}" not in taken)
            if node.name:
                taken.remove(node.name)
            node.name = f"{OP_TYPE}_{number}"
            taken.append(node.name)


def _check_shapes(shapes: dict[str, tuple[int | str, ...] | None], attributes: Attributes) -> None:
    """Check the contract's rules for weights, and those for maps if the size of X is known.

    A dynamic batch is taken as 2, and a map of unknown size as the neutral one.
    """
    w, gate_w, x = shapes["W"], shapes["gate_W"], shapes["X"]
    if _known(w) and _known(gate_w):
        check_geometry(w, gate_w, attributes)
    if x is None or len(x) != 4:
        return
    x = (x[0] if isinstance(x[0], int) else 2, *x[1:])
    known: dict[str, tuple[int, ...]] = {}
    for name, given in {**shapes, "X": x}.items():
        dynamic = given is not None and len(given) == 4 and not isinstance(given[0], int)
        shape = (x[0], *given[1:]) if dynamic and given is not None else given
        if _known(shape):
            known[name] = shape
        elif name in ("gate", "residual"):
            known[name] = (1, 1, 1, 1)
        else:
            return
    output_shape(known, attributes)


def _known(shape: tuple[int | str, ...] | None) -> TypeGuard[tuple[int, ...]]:
    return shape is not None and all(isinstance(d, int) for d in shape)


def _share_neutral_inputs(graph: gs.Graph) -> None:
    """Share one tensor per kind of neutral input among all layers."""
    shared: dict[str, gs.Constant] = {}
    for node in filter(is_lccl, graph.nodes):
        for i, spec in enumerate(INPUTS):
            values = value_of(node.inputs[i])
            if spec.name not in OPTIONAL_INPUTS or values is None or values.size != 1 or values.item() != spec.neutral:
                continue
            name = f"neutral.{spec.name}.{values.dtype}"
            node.inputs[i] = shared.setdefault(name, constant(name, values))


def _shape(tensor: gs.Tensor) -> tuple[int | str, ...] | None:
    values = value_of(tensor)
    if values is not None:
        return tuple(values.shape)
    return tuple(tensor.shape) if tensor.shape is not None else None
