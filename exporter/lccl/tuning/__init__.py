"""Cuts of gates, moved after training so that fewer pixels are open: no weight is trained."""

from lccl.tuning.results import TunedPoint, TuneResult
from lccl.tuning.tuner import tune

__all__ = ["TuneResult", "TunedPoint", "tune"]
