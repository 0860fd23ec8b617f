"""Fusion of what follows a layer into its node: affine, added branch, activation."""

from lccl.graph.fuse.following import fuse_following

__all__ = ["fuse_following"]
