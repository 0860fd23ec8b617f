"""Fusion of a ReLU or LeakyReLU behind a layer."""

from __future__ import annotations

from lccl.graph.fuse.follower import Follower
from lccl.graph.nodes import leaky_slope
from lccl.graph.shapes import Sizes


def fuse_activation(follower: Follower, _sizes: Sizes) -> bool:
    """Fuse the activation into the layer, and return whether it is one.

    It goes into ``activation_alpha`` if it follows the product directly, since leaky(u * g) =
    leaky(u) * g for a gate that is not negative, else into ``post_alpha``.
    """
    slope = leaky_slope(follower.node)
    if slope is None:
        return False
    attributes = follower.layer.attrs
    plain = follower.is_neutral("post_scale", "post_bias", "residual") and attributes["post_alpha"] == 1
    name = "activation_alpha" if plain else "post_alpha"
    attributes[name] *= slope
    return True
