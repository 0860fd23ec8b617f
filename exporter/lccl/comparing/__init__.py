"""A gated network against dense ones: accuracy, agreement, latency, density and MACs, over the same inputs."""

from lccl.comparing.measure import LatencyPlan
from lccl.comparing.pipeline import Limits, compare
from lccl.comparing.results import Check, Comparison, Latency, Row, Setting
from lccl.data import Data

__all__ = ["Check", "Comparison", "Data", "Latency", "LatencyPlan", "Limits", "Row", "Setting", "compare"]
