"""What follows an LCCLConv node -> into the node: an affine per channel, a branch that is added, an activation. One file each."""

from lccl.graph.fuse.following import fuse_following

__all__ = ["fuse_following"]
