"""Density and multiply-accumulates (MACs) per layer, of a network on real inputs."""

from lccl.profiling.profiles import LayerProfile, Profile, profile

__all__ = ["LayerProfile", "Profile", "profile"]
