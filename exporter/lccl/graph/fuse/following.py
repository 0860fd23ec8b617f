"""The loop over all fusions: what follows a layer goes into its node, by the contract.

The contract's order is ``leaky(v * post_scale + post_bias + residual, post_alpha)``. Each fusion
has a file with its pattern, its checks and its rewrite. Nothing but the follower may read the
tensor between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_graphsurgeon as gs

from lccl.graph.fuse.activation import fuse_activation
from lccl.graph.fuse.affine import fuse_affine
from lccl.graph.fuse.follower import Follower, follower_of
from lccl.graph.fuse.residual import fuse_residual
from lccl.graph.shapes import Sizes

_PASSES = (fuse_activation, fuse_affine, fuse_residual)


def fuse_following(graph: gs.Graph, nodes: Iterable[gs.Node], sizes: Sizes) -> Mapping[int, tuple[str, ...]]:
    """Fuse into each node what follows it.

    Args:
        nodes: LCCLConv nodes of the graph with stored weights and every attribute.
        sizes: shapes by tensor name; a rewrite keeps the name of the tensor that it gives.

    Returns:
        Id of the node -> ops that were fused into it, in order.
    """
    outputs = {id(t) for t in graph.outputs}
    return {id(node): tuple(_fuse_one(node, sizes, outputs)) for node in nodes}


def _fuse_one(node: gs.Node, sizes: Sizes, outputs: set[int]) -> list[str]:
    fused: list[str] = []
    while True:
        follower = follower_of(node, outputs)
        if follower is None or not any(step(follower, sizes) for step in _PASSES):
            return fused
        fused.append(follower.node.op)
        _take_output(follower)


def _take_output(follower: Follower) -> None:
    """Give the follower's output to the layer. The follower is left without inputs and outputs."""
    output = follower.node.outputs[0]
    follower.node.outputs.clear()
    follower.layer.outputs = [output]
    follower.node.inputs.clear()
