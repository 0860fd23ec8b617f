"""Training towards a chosen density: the loss that PyTorch lacks."""

from lccl.train.density import DensityLoss

__all__ = ["DensityLoss"]
