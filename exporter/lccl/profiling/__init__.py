"""Profiles of a network on real inputs: density and multiply-accumulates (MACs) per layer."""

from lccl.profiling.measure import profile
from lccl.profiling.profiles import LayerProfile, NetworkProfile

__all__ = ["LayerProfile", "NetworkProfile", "profile"]
