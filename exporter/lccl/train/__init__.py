"""What training towards a chosen density needs beyond PyTorch."""

from lccl.train.density import DensityLoss

__all__ = ["DensityLoss"]
