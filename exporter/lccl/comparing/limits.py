"""Limits that a comparison is held to, and whether they passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lccl.comparing.results import Check, Row
from lccl.errors import Fix, UserError
from lccl.errors.arguments import NAME, NONE, NUMBER, require_kind
from lccl.errors.deprecation import renamed_fields
from lccl.metrics import Metric


@renamed_fields(min_dense_agreement="min_baseline_agreement")
@dataclass(frozen=True)
class Limits:
    """What a comparison has to reach to be true; None: no such limit."""

    min_agreement: float | None = None
    """Fraction of equal predictions between the runners of the LCCL network; needs two of them."""
    min_baseline_agreement: float | None = None
    """Fraction of equal predictions between the LCCL network and the baseline."""
    max_accuracy_drop: float | None = None
    """Top-1 of the baseline minus that of the LCCL network, in points (0.5 is half a percent)."""
    min_speedup: float | None = None
    """Median latency of the baseline / that of the LCCL network in the same runtime on the same
    device; every LCCL row with a baseline in its runtime has to reach it."""
    min_speedup_runner: str | None = None
    """The only runner whose rows have to reach ``min_speedup``, such as "onnxruntime-lccl"; None:
    those of all runners."""
    metric_limit: float | None = None
    """The worst mean of the metric that an LCCL row may have: the least where higher values are
    better, else the most."""
    max_metric_drop: float | None = None
    """By how much the metric's mean may be worse than the baseline's, in its own unit."""

    def __post_init__(self) -> None:
        """Check the fractions.

        Raises:
            UserError: one is not between 0 and 1.
        """
        for name in (
            "min_agreement",
            "min_baseline_agreement",
            "max_accuracy_drop",
            "min_speedup",
            "metric_limit",
            "max_metric_drop",
        ):
            require_kind(name, getattr(self, name), NUMBER | NONE)
        require_kind("min_speedup_runner", self.min_speedup_runner, NAME | NONE)
        for name in ("min_agreement", "min_baseline_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} is a fraction between 0 and 1, not {value}")


BASELINE = Fix("baseline", "FILE")


def check_limits(rows: Sequence[Row], limits: Limits, metric: Metric | None = None) -> tuple[Check, ...]:
    """Hold the rows to every limit that is given.

    Args:
        rows: of the comparison.
        limits: what the caller asks for.
        metric: the one that the rows were scored with.

    Raises:
        UserError: a limit for which nothing was measured.
    """
    ran = [row for row in rows if row.role == "lccl" and not row.skipped]
    baseline = next((row for row in rows if row.role == "baseline" and not row.skipped), None)
    return tuple(
        filter(
            None,
            (
                _agreement(ran, limits.min_agreement),
                _baseline_agreement(ran, baseline, limits.min_baseline_agreement),
                _accuracy_drop(ran, baseline, limits.max_accuracy_drop),
                _speedup(ran, limits),
                _metric_limit(ran, metric, limits.metric_limit),
                _metric_drop(ran, baseline, metric, limits.max_metric_drop),
            ),
        )
    )


def _agreement(ran: Sequence[Row], limit: float | None) -> Check | None:
    if limit is None:
        return None
    values = [row.agreement for row in ran[1:] if row.agreement is not None]
    if not values:
        raise UserError(
            "min-agreement needs a second runner of the LCCL network, such as its checkpoint beside its .onnx file; to limit "
            "the agreement with the baseline",
            Fix("min_baseline_agreement", limit, owner="limits"),
        )
    return Check("min-agreement", min(values), limit, min(values) >= limit)


def _baseline_agreement(ran: Sequence[Row], baseline: Row | None, limit: float | None) -> Check | None:
    if limit is None:
        return None
    value = ran[0].agreement if baseline is not None else None
    if value is None:
        raise UserError("min-baseline-agreement needs the predictions of a baseline", BASELINE)
    return Check("min-baseline-agreement", value, limit, value >= limit)


def _accuracy_drop(ran: Sequence[Row], baseline: Row | None, limit: float | None) -> Check | None:
    if limit is None:
        return None
    top = baseline.accuracy if baseline is not None else None
    drops = [100 * (top - row.accuracy) for row in ran if row.accuracy is not None] if top is not None else []
    if not drops:
        raise UserError("max-accuracy-drop needs labels in the data and a baseline", BASELINE)
    return Check("max-accuracy-drop", max(drops), limit, max(drops) <= limit)


def _speedup(ran: Sequence[Row], limits: Limits) -> Check | None:
    limit, only = limits.min_speedup, limits.min_speedup_runner
    if limit is None:
        return None
    values = [row.speedup for row in ran if row.speedup is not None and only in (None, row.runner)]
    name = f"min-speedup ({only})" if only else "min-speedup"
    if not values:
        raise UserError(f"{name} needs latencies of the LCCL network and of a dense one in the same runtime on the same device")
    return Check(name, min(values), limit, min(values) >= limit)


def _metric_limit(ran: Sequence[Row], metric: Metric | None, limit: float | None) -> Check | None:
    if limit is None or metric is None:
        return None
    values = [row.metric for row in ran if row.metric is not None]
    if not values:
        raise UserError("metric-limit needs an LCCL network that ran, whose outputs have a metric")
    worst = min(values) if metric.direction == "higher" else max(values)
    return Check("metric-limit", worst, limit, metric.drop(limit, worst) <= 0)


def _metric_drop(ran: Sequence[Row], baseline: Row | None, metric: Metric | None, limit: float | None) -> Check | None:
    if limit is None or metric is None:
        return None
    if baseline is None or baseline.metric is None:
        raise UserError("max-metric-drop needs a baseline", BASELINE)
    drops = [metric.drop(baseline.metric, row.metric) for row in ran if row.metric is not None]
    if not drops:
        raise UserError("max-metric-drop needs an LCCL network that ran, whose outputs have a metric")
    return Check("max-metric-drop", max(drops), limit, max(drops) <= limit)
