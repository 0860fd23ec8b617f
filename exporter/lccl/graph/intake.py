"""Models from outside -> models as this package reads them.

Tools rename the op's function or store its float32 inputs in float16, and some exporters write a
number where a size is dynamic. Every entry of the package puts that right first, so that no pass
has to know of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import onnx
from onnx import GraphProto, NodeProto, helper

from lccl.errors import UserError
from lccl.op.contract import DOMAIN, INPUTS, OP_TYPE
from lccl.op.layout_op import LAYOUT_DOMAIN
from lccl.op.onnx_function import attach_function, is_op_function, make_function
from lccl.op.onnx_op import is_lccl_node

STANDARD = ("", "ai.onnx")
"""The two spellings of the standard ops' domain."""
LOST_NODES = "the model was exported with gated convolutions, and a tool has put standard ops in their place"
HOW_TO_RESTORE = "open the file that lccl.export wrote, or give this one to lccl.export again"
_LOW = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def intake(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with one name for each op and domain, and no number for a dynamic size.

    It is the model itself, not a copy, if nothing has to be changed.
    """
    return with_nodes(_in_one_standard_domain(_without_false_sizes(in_one_layout(model))))


def is_built(model: onnx.ModelProto) -> bool:
    """Return whether the model was built for ONNX Runtime: it has private ops, with layouts."""
    return any(node.domain == LAYOUT_DOMAIN for node in model.graph.node)


def in_one_layout(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that was built for ONNX Runtime with the contract's op, in its layout.

    It is the model itself, not a copy, if it was not built.

    Raises:
        UserError: a private op has lost its function.
    """
    if not is_built(model):
        return model
    private = {f.name for f in model.functions if f.domain == LAYOUT_DOMAIN}
    if {node.op_type for node in model.graph.node if node.domain == LAYOUT_DOMAIN} - private:
        raise UserError("the model was built for ONNX Runtime, and a tool has removed its functions: build it again")
    from lccl.graph.layouts.in_contract import in_contract

    return in_contract(model)


def with_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with LCCLConv nodes of the op's own name and input types.

    It is the model itself, not a copy, if nothing has to be changed.
    """
    return _with_float32_inputs(_named(model))


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each call of the op's function as an LCCLConv node.

    ``onnx.compose.add_prefix`` and ``merge_models`` rename the function, and any tool may move it
    to another domain. It is the model itself if each call has the op's name.
    """
    renamed = {(f.domain, f.name) for f in model.functions if is_op_function(f)} - {(DOMAIN, OP_TYPE)}
    if not renamed:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    kept = [f for f in out.functions if (f.domain, f.name) not in renamed]
    del out.functions[:]
    out.functions.extend(kept)
    for node in all_nodes(out):
        if (node.domain, node.op_type) in renamed:
            node.domain, node.op_type = DOMAIN, OP_TYPE
    _drop_domains(out, {domain for domain, _ in renamed})
    attach_function(out)
    return out


def _with_float32_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a Cast before each float32 input of the op that is stored in float16.

    Converters to float16 that do not know the op store them so. It is the model itself if there is
    none.
    """
    low = {t.name for t in model.graph.initializer if t.data_type in _LOW}
    if not any(
        node.input[i] in low for node in _with_inner(model.graph.node) if is_lccl_node(node) for i in _float32_inputs(node)
    ):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    wide: dict[str, str] = {}
    taken = {name for node in all_nodes(out) for name in (*node.input, *node.output)}
    for node in filter(is_lccl_node, _with_inner(out.graph.node)):
        for i in _float32_inputs(node):
            if node.input[i] in low:
                name = next(n for k in itertools.count() if (n := f"{node.input[i]}.as_float32{k or ''}") not in taken)
                node.input[i] = wide.setdefault(node.input[i], name)
    casts = [helper.make_node("Cast", [name], [new], name=new, to=onnx.TensorProto.FLOAT) for name, new in wide.items()]
    nodes = [*casts, *out.graph.node]
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def _float32_inputs(node: NodeProto) -> Iterator[int]:
    return (i for i, spec in enumerate(INPUTS[: len(node.input)]) if not spec.is_tensor_type)


def _in_one_standard_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with "" for "ai.onnx", which is the same domain."""
    if all(o.domain != "ai.onnx" for o in model.opset_import):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    version = max(o.version for o in out.opset_import if o.domain in STANDARD)
    others = [o for o in out.opset_import if o.domain not in STANDARD]
    del out.opset_import[:]
    out.opset_import.extend([helper.make_opsetid("", version), *others])
    for node in all_nodes(out):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    for function in out.functions:
        for opset in function.opset_import:
            opset.domain = "" if opset.domain == "ai.onnx" else opset.domain
    return out


def all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of the model, of its branches and bodies, and of its functions."""
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        yield from _with_inner(nodes)


def has_nodes(model: onnx.ModelProto) -> bool:
    """Return whether the model has an LCCLConv node, in a branch, body or function too."""
    return any(map(is_lccl_node, all_nodes(model)))


def has_lost_nodes(model: onnx.ModelProto) -> bool:
    """Return whether the model is a gated one whose LCCLConv nodes a tool has replaced.

    The op's body then stands in their place, or the model's notes tell of nodes that it does not
    have. A dense twin and a decomposed file are meant to have none.
    """
    if has_nodes(model):
        return False
    body = [node.op_type for node in make_function().node]
    ops = [node.op_type for node in model.graph.node]
    if any(ops[i : i + len(body)] == body for i, op in enumerate(ops) if op == body[0]):
        return True
    notes = {p.key for p in model.metadata_props}
    return "lccl.op" in notes and "lccl.twin" not in notes


def _with_inner(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for graph in graphs_of(node):
            yield from _with_inner(graph.node)


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the branches and bodies of a node."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _drop_domains(model: onnx.ModelProto, domains: set[str]) -> None:
    """Remove imports of the domains that nothing uses any more."""
    used = {node.domain for node in all_nodes(model)} | {f.domain for f in model.functions} | {*STANDARD, DOMAIN}
    kept = [o for o in model.opset_import if o.domain not in domains - used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


# ---- sizes ---------------------------------------------------------------------------------------


def _without_false_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with no size below 1 in it, and none whose name has no letter.

    Some exporters write -1, 0 or "?" for a dynamic one; to TensorRT sizes of one name are equal.
    Weights that are listed among the inputs keep theirs. It is the model itself if it has none.
    """
    if not any(_false_sizes(model.graph)):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for dim in list(_false_sizes(out.graph)):
        dim.Clear()
    return out


def _is_false(dim: onnx.TensorShapeProto.Dimension) -> bool:
    if dim.HasField("dim_param"):
        return not any(character.isalpha() for character in dim.dim_param)
    return dim.HasField("dim_value") and dim.dim_value < 1


def _false_sizes(graph: GraphProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    stored = {t.name for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name not in stored:
            yield from filter(_is_false, value.type.tensor_type.shape.dim)
    for node in graph.node:
        for inner in graphs_of(node):
            yield from _false_sizes(inner)
