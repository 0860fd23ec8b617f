"""Fields of the TensorRT plugin that are not in the contract.

They say how the plugin runs, and change nothing of the op's meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import onnx
from onnx import helper

from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node

ALIAS = "alias_residual"
"""1: the output may take the residual's memory."""
TIME_BY_DENSITY = "time_by_density"
"""1: the engine will be serialised, so that whatever the building process runs is TensorRT's
timing."""
_RESIDUAL = INPUT_NAMES.index("residual")


def residuals_in_place(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the outputs of the LCCLConv nodes that may take their residual's memory.

    Nothing else reads the residual of such a node.

    A neutral residual is a stored constant and does not count.
    """
    readers = Counter(_read(model.graph))
    readers.update(value.name for value in model.graph.output)
    kept = {t.name for t in model.graph.initializer} | {v.name for v in model.graph.input}
    kept |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    return tuple(
        node.output[0]
        for node in model.graph.node
        if is_lccl_node(node) and readers[node.input[_RESIDUAL]] == 1 and node.input[_RESIDUAL] not in kept
    )


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name that a node reads, in branches and loop bodies too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(inner)
                yield from (value.name for value in inner.output)


def with_plugin_fields(model: onnx.ModelProto, in_place: Collection[str]) -> onnx.ModelProto:
    """Return the model with the plugin's fields on every LCCLConv node.

    It is for a build whose engine is serialised.

    Args:
        in_place: outputs that may take their residual's memory.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in filter(is_lccl_node, out.graph.node):
        fields = {ALIAS: int(node.output[0] in in_place), TIME_BY_DENSITY: 1}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in fields.items())
    return out
