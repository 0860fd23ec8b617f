"""Density and multiply-accumulates (MACs) per layer, of a network on real inputs."""

from lccl.profiling.measure import profile
from lccl.profiling.profiles import LayerProfile, Profile

__all__ = ["LayerProfile", "Profile", "profile"]
