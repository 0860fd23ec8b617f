"""Training towards chosen densities: schedules, budgets, starts, statistics, losses."""

from lccl.errors.requires import needing

with needing("lccl.train"):
    from lccl.train.budget import Budget, Sensitivity, allocate, macs_budget, sensitivity
    from lccl.train.density import DensityLoss
    from lccl.train.gates import parameter_groups
    from lccl.train.loop import Epoch, FitResult, fit
    from lccl.train.losses import distillation_loss
    from lccl.train.schedule import DensitySchedule
    from lccl.train.starts import fit_gates
    from lccl.train.statistics import Recalibration, recalibrate
    from lccl.train.time_budget import time_budget

__all__ = [
    "Budget",
    "DensityLoss",
    "DensitySchedule",
    "Epoch",
    "FitResult",
    "Recalibration",
    "Sensitivity",
    "allocate",
    "distillation_loss",
    "fit",
    "fit_gates",
    "macs_budget",
    "parameter_groups",
    "recalibrate",
    "sensitivity",
    "time_budget",
]
