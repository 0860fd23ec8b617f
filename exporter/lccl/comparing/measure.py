"""Running the candidates: all outputs once, then latencies in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lccl.backends.batches import CHUNK, infer_all, joined
from lccl.backends.interface import Runner
from lccl.comparing.results import Latency
from lccl.console.progress import Progress
from lccl.errors import Fix, UserError
from lccl.errors.arguments import COUNT, NUMBER, WHOLE, Kind, require_kind
from lccl.loading.data import Data
from lccl.numerics import Array

BATCHES = Kind(
    "whole numbers from 1",
    lambda value: isinstance(value, (tuple, list)) and all(map(COUNT.accepts, value)),  # type: ignore[arg-type]
)


@dataclass(frozen=True)
class LatencyPlan:
    """How latencies are measured: batch size and rounds."""

    batch: int = 1
    warmup: int = 10
    runs: int = 200
    max_seconds: float = 20.0
    """Limit of the whole measurement, which ends early at a full round, but not before 10
    rounds."""
    throughput: tuple[int, ...] = ()
    """Batches whose samples per second are measured too."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: one is out of range.
        """
        require_kind("batch", self.batch, COUNT)
        require_kind("warmup", self.warmup, WHOLE)
        require_kind("runs", self.runs, COUNT)
        require_kind("max_seconds", self.max_seconds, NUMBER)
        require_kind("throughput", self.throughput, BATCHES)


def all_outputs(runner: Runner, data: Data) -> list[Array]:
    """The runner's outputs over all samples, in order.

    Raises:
        UserError: an output without an axis for the samples.
    """
    chunks = [infer_all(runner, feed) for feed in data.chunks(runner.input_names, CHUNK)]
    if any(value.ndim == 0 for value in chunks[0].values()):
        raise UserError(f"an output of the network in {runner.name} is one number for all samples: leave it out of the model")
    return list(joined(runner, chunks).values())


def latencies(runners: Sequence[Runner], data: Data, plan: LatencyPlan, progress: Progress) -> list[Latency]:
    """Measure the latency of each runner.

    Every round times each of them once on the same batch, in a random order, so that a drift of the
    machine's speed meets all alike. An untimed run before it fills the caches with the runner's own
    data.

    Raises:
        UserError: a runner that does not take this batch.
    """
    batch = min(plan.batch, len(data))
    for runner in runners:
        if batch not in runner.batches:
            raise UserError(
                f"a network in {runner.name} takes {runner.batches} samples at a time, not {batch}, so its latency cannot be "
                "measured with this batch",
                (Fix("batch", runner.batches.least, owner="latency"), Fix("latency", None, "to measure none")),
            )
    rng = np.random.default_rng(0)
    starts = rng.integers(0, max(1, len(data) - batch + 1), plan.warmup + plan.runs)
    times: list[list[float]] = [[] for _ in runners]
    began = time.perf_counter()
    for round_, start in enumerate(starts):
        if round_ % 20 == 0:
            progress("measuring latency", round_, len(starts))
        feeds = [data.feed(r.input_names, int(start), int(start) + batch) for r in runners]
        for k in rng.permutation(len(runners)):
            runners[k].infer(feeds[k])
            t0 = time.perf_counter()
            runners[k].infer(feeds[k])
            seconds = time.perf_counter() - t0
            if round_ >= plan.warmup:
                times[k].append(1e3 * seconds)
        if round_ >= plan.warmup + 10 and time.perf_counter() - began > plan.max_seconds:
            break
    return [Latency(float(np.median(t)), float(np.percentile(t, 95)), len(t), float(np.percentile(t, 5))) for t in times]


def require_samples(data: Data, plan: LatencyPlan | None) -> None:
    """Check that the data has as many samples as the largest batch, before anything is run.

    Raises:
        UserError: it has fewer.
    """
    most = max(plan.throughput, default=0) if plan is not None else 0
    if most > len(data):
        raise UserError(
            f"throughput at batch {most} needs as many samples, and the data has {len(data)}: give more data, or a smaller batch"
        )


THROUGHPUT_ROUNDS, THROUGHPUT_SECONDS = 5, 1.0
"""At least so many rounds of each batch, then until so many seconds for each runner are over."""


def throughputs(runners: Sequence[Runner], data: Data, batches: Sequence[int], progress: Progress) -> list[dict[int, float]]:
    """Measure the samples per second of each runner at each batch, in turn.

    A runner that does not take a batch has no number for it.
    """
    found: list[dict[int, float]] = [{} for _ in runners]
    for batch in batches:
        progress(f"measuring throughput at batch {batch}")
        able = [i for i, runner in enumerate(runners) if batch in runner.batches]
        feeds = {i: data.feed(runners[i].input_names, 0, batch) for i in able}
        times: dict[int, list[float]] = {i: [] for i in able}
        for i in able:
            runners[i].infer(feeds[i])
        end = time.perf_counter() + THROUGHPUT_SECONDS * len(able)
        while able and (len(times[able[0]]) < THROUGHPUT_ROUNDS or time.perf_counter() < end):
            for i in able:
                began = time.perf_counter()
                runners[i].infer(feeds[i])
                times[i].append(time.perf_counter() - began)
        for i in able:
            found[i][batch] = batch / float(np.median(times[i]))
    return found
