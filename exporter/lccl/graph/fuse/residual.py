"""Fusion of a branch that is added to a layer's output."""

from __future__ import annotations

from lccl.graph.constants import stored_shape
from lccl.graph.fuse.follower import Follower
from lccl.graph.nodes import depends_on, is_op
from lccl.graph.shapes import Sizes


def fuse_residual(follower: Follower, sizes: Sizes) -> bool:
    """Fuse the branch into ``residual``, and return whether that was done.

    The branch has to have the output's shape, and must not be computed from it.
    """
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
