"""Training towards a chosen density: the loss that PyTorch lacks."""

from lccl.requires import needing

with needing("lccl.train"):
    from lccl.train.density import DensityLoss

__all__ = ["DensityLoss"]
