"""Fusion of a BatchNormalization, or another affine per channel, behind a layer."""

from __future__ import annotations

import numpy as np

from lccl.graph.constants import constant
from lccl.graph.fuse.follower import Follower
from lccl.graph.nodes import channel_affine
from lccl.graph.shapes import Sizes


def fuse_affine(follower: Follower, _sizes: Sizes) -> bool:
    """Fuse the affine into ``post_scale`` and ``post_bias``, and return whether that was done.

    It is not fused into a layer with a residual or a ``post_alpha``.
    """
    found = channel_affine(follower.node)
    if found is None or found[0] is not follower.layer.outputs[0]:
        return False
    scale, shift = found[1]
    if (scale == 1).all() and not shift.any():
        return True
    before = follower.given("post_scale"), follower.given("post_bias")
    k = follower.channels
    if follower.layer.attrs["post_alpha"] != 1 or not follower.is_neutral("residual") or before[0] is None or before[1] is None:
        return False
    if any(a.size not in (1, k) for a in (scale, shift)):
        return False
    own_scale, own_shift = (np.asarray(v, np.float64) for v in before)
    name = follower.layer.name
    new_scale = np.broadcast_to(own_scale * scale, (k,))
    new_shift = np.broadcast_to(own_shift * scale + shift, (k,))
    follower.set_input("post_scale", constant(f"{name}.post_scale", new_scale, np.float32))
    follower.set_input("post_bias", constant(f"{name}.post_bias", new_shift, np.float32))
    return True
