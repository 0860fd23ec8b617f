"""Comparison of a gated network with dense ones: accuracy, agreement, latency, density and MACs."""

from lccl.comparing.comparer import compare
from lccl.comparing.limits import Limits
from lccl.comparing.measure import LatencyPlan
from lccl.comparing.results import Check, Comparison, Environment, Latency, Row
from lccl.errors.deprecation import renamed_names
from lccl.loading.data import Data

__all__ = ["Check", "Comparison", "Data", "Environment", "Latency", "LatencyPlan", "Limits", "Row", "compare"]
__getattr__ = renamed_names(__name__, {"Setting": ("Environment", lambda: Environment)})
