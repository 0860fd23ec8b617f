"""What has to hold before any network of a comparison runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lccl.comparing.candidates import Candidate
from lccl.comparing.limits import Limits
from lccl.errors import Fix, UserError
from lccl.metrics import Metric

METRIC = Fix("metric", "pkg.module:function")


def require_metric(limits: Limits, metric: Metric | None) -> None:
    """Check that limits on a metric come with one.

    Raises:
        UserError: they do not.
    """
    if metric is None and (limits.metric_limit is not None or limits.max_metric_drop is not None):
        raise UserError("a limit on a metric needs the metric", METRIC)


def require_running(candidates: Sequence[Candidate], limits: Limits, allow_skipped: bool) -> None:
    """Check that the networks, and what the limits are about, can run here in one process.

    Raises:
        UserError: the LCCL network runs nowhere; a limit is given and a named network cannot run;
            the runner that the speed-up is limited to is none of its runners, or no such limit is
            set; or engines of both TensorRTs are given.
    """
    if {"tensorrt", "tensorrt-rtx"} <= {c.runner.name for c in candidates}:
        raise UserError("engines of tensorrt and of tensorrt-rtx cannot run in one process: compare them one at a time")
    own = [c for c in candidates if c.role == "lccl"]
    if all(c.skipped for c in own):
        raise UserError(f"no runtime here can run the LCCL network ({_reasons(own) or 'none was given'})")
    skipped = [c for c in candidates if c.skipped and not c.optional]
    if skipped and limits != Limits() and not allow_skipped:
        raise UserError(
            f"not every network can run here ({_reasons(skipped)}), so the limits would not cover all of them",
            Fix("allow_skipped"),
        )
    running = list(dict.fromkeys(c.runner.name for c in own if not c.skipped))
    _require_speedup_runner(limits, running, {c.runner.name: c.skipped for c in own if c.skipped})


def _reasons(candidates: Iterable[Candidate]) -> str:
    return "; ".join(f"{c.network}: {c.skipped}" for c in candidates if c.skipped)


def _require_speedup_runner(limits: Limits, running: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Check the runner that the speed-up is limited to.

    Args:
        limits: what the caller asks for.
        running: the runners in which the LCCL network runs here.
        skipped: those in which it does not -> why.
    """
    name = limits.min_speedup_runner
    if name is None:
        return
    if limits.min_speedup is None:
        raise UserError(
            f"the runner {name} is named for a limit on the speed-up, but no such limit is set",
            Fix("min_speedup", 1.0, owner="limits"),
        )
    if name in running:
        return
    if name in skipped:
        raise UserError(f"{name} does not run here: {skipped[name]}")
    raise UserError(
        f"the limit on the speed-up needs a runner that the LCCL network runs in here ({', '.join(running)}), not {name}"
    )
