"""Profiles of a network on real inputs: density and multiply-accumulates (MACs) per layer."""

from lccl.errors.deprecation import renamed_names
from lccl.profiling.measure import profile
from lccl.profiling.profiles import LayerProfile, NetworkProfile

__all__ = ["LayerProfile", "NetworkProfile", "profile"]

__getattr__ = renamed_names(__name__, {"Profile": ("NetworkProfile", lambda: NetworkProfile)})
