"""Profiles of a network on real inputs: density and multiply-accumulates (MACs) per layer."""

from lccl.profiling.measure import profile
from lccl.profiling.profiles import LayerProfile, NetworkProfile
from lccl.signatures.deprecation import renamed_names

__all__ = ["LayerProfile", "NetworkProfile", "profile"]

__getattr__ = renamed_names(__name__, {"Profile": ("NetworkProfile", lambda: NetworkProfile)})
