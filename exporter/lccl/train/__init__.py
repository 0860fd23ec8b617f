"""What training towards a chosen density needs beyond PyTorch."""

from lccl.requires import needing

with needing("lccl.train"):
    from lccl.train.density import DensityLoss

__all__ = ["DensityLoss"]
