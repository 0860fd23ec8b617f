"""A branch that is added to a layer's output."""

from __future__ import annotations

from lccl.graph.fuse.follower import Follower
from lccl.graph.nodes import depends_on, is_op
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import stored_shape


def fuse_residual(follower: Follower, sizes: Sizes) -> bool:
    """Into ``residual``, where the branch has the output's own shape and is not computed from it."""
    branch = follower.other
    if not is_op(follower.node, "Add") or branch is None or stored_shape(branch) is not None:
        return False
    if follower.layer.attrs["post_alpha"] != 1 or not follower.is_neutral("residual"):
        return False
    shapes = sizes.of(branch)
    if shapes is None or shapes != sizes.of(follower.node.outputs[0]) or shapes != sizes.of(follower.layer.outputs[0]):
        return False
    if depends_on(branch, {id(follower.layer)}):
        return False
    follower.set_input("residual", branch)
    return True
