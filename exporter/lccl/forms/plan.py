"""Which form each layer has, and the model with its layers in these forms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx

from lccl.files.protos import skeleton_of
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.fuse import fuse_following
from lccl.graph.layouts.channels_last import with_layouts
from lccl.graph.layouts.gateless import can_be_gateless, make_gateless
from lccl.graph.nodes import is_lccl
from lccl.graph.shapes import sizes_of
from lccl.graph.variants.inlined import inlined_nodes
from lccl.op.onnx_op import is_lccl_node


@dataclass(frozen=True)
class Plan:
    """What differs from a model with its gated layers by the op, and dense ones as they are."""

    standard: frozenset[str] = frozenset()
    """Gated layers in standard ops, which compute every pixel."""
    joined: frozenset[str] = frozenset()
    """Dense convolutions by the kernels of the op, in the layout of its runs."""
    channels_last: bool = False
    """Whether tensors within runs have their channels innermost."""

    def with_flipped(self, layer: str, gated: bool) -> Plan:
        """Return the plan with another form of one layer."""
        if gated:
            return replace(self, standard=self.standard ^ {layer})
        return replace(self, joined=self.joined ^ {layer})


@dataclass(frozen=True)
class Layers:
    """The layers of a model that have more than one form, in order."""

    gated: tuple[str, ...]
    joinable: tuple[str, ...]


@dataclass
class Planned:
    """A canonical model, and its forms by plan. A model is made once for each plan."""

    model: onnx.ModelProto
    """Its convolutions have names of their own."""
    layers: Layers
    _made: dict[Plan, onnx.ModelProto] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Planned:
        """Name the convolutions of a canonical model and find those that can be joined."""
        named = onnx.ModelProto()
        named.CopyFrom(model)
        _name_convolutions(named)
        named = onnx.shape_inference.infer_shapes(named)
        gated = tuple(node.name for node in named.graph.node if is_lccl_node(node))
        graph = to_graph(named)
        joinable = {node.name for node in graph.nodes if can_be_gateless(node)}
        return cls(named, Layers(gated, tuple(n.name for n in named.graph.node if n.name in joinable)))

    def model_of(self, plan: Plan) -> onnx.ModelProto:
        """Return the model with its layers in the plan's forms."""
        if plan not in self._made:
            self._made[plan] = in_forms(self.model, plan)
        return self._made[plan]

    def forget(self) -> None:
        """Drop the models that were made."""
        self._made.clear()


def in_forms(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Return a canonical model, whose convolutions have names, with its layers in the plan's forms.

    What follows a layer goes into its node, and the tensors of runs have their channels innermost.
    """
    view = inlined_nodes(model, plan.standard) if plan.standard else model
    graph = to_graph(view)
    make_gateless(graph, plan.joined)
    nodes = [node for node in graph.nodes if is_lccl(node)]
    skeleton, _ = skeleton_of(view)
    fuse_following(graph, nodes, sizes_of(skeleton))
    return with_layouts(to_model(graph, view), plan.channels_last)[0]


def _name_convolutions(model: onnx.ModelProto) -> None:
    """Give each Conv a name of its own."""
    taken = {node.name for node in model.graph.node if is_lccl_node(node)}
    for node in model.graph.node:
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        wanted = node.name or node.output[0]
        number = 0
        while wanted in taken:
            number += 1
            wanted = f"{node.name or node.output[0]}_{number}"
        node.name = wanted
        taken.add(wanted)
