"""The settings of a CPU benchmark, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from bench.cpu.common import NO_LIBRARY, Array, Row, Times, marginal, summary
from bench.cpu.contest import (
    Candidate,
    OpenVinoRunner,
    OrtRunner,
    Plan,
    Runner,
    dense_bytes,
    gate_outputs,
    openvino_there,
    race,
    relative_error,
)
from bench.cpu.layer_nets import Layer, layer_input, layer_net
from lccl.console.progress import Progress
from lccl.errors import first_line

TOLERANCE = 1e-3
"""Of the largest output: an output of ours that differs more from the function's is wrong."""
DENSITY_TOLERANCE = 0.01
"""Of all pixels; or one pixel, where that is more."""
CHAIN_US = 4000.0
FEWEST, MOST = 3, 6
"""Layers that the long network has beyond the short one: as many as take about CHAIN_US
microseconds densely, but no more than a stage of a network has: the weights of more would not stay
in the same caches."""


@dataclass(frozen=True)
class Conditions:
    """What a layer or a network is run with."""

    batch: int
    threads: int
    gate: str
    masks: tuple[str, ...]
    densities: tuple[float, ...]

    @property
    def words(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}, gate {self.gate}"

    def pairs(self) -> Iterator[tuple[str, float]]:
        """Mask and density of each row."""
        return ((mask, density) for mask in self.masks for density in self.densities)


@dataclass
class Bench:
    """Rows as they come."""

    library: str
    plan: Plan = field(default_factory=Plan)
    deadline: float = float("inf")
    """time.monotonic() at which to begin no other setting."""
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Settings with a wrong result or an error."""
    complete: bool = False

    def run(
        self,
        settings: Sequence[tuple[str, Callable[[Bench], list[Row]]]],
        progress: Progress,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        """Measures the settings in their order; ``complete`` says whether all were.

        Args:
            settings: name, and what measures it.
            keep: called after each, so that what there is survives whatever comes.
        """
        for number, (words, measure) in enumerate(settings):
            if time.monotonic() > self.deadline:
                return
            progress(f"{number + 1}/{len(settings)} {words}", number, len(settings))
            try:
                for row in measure(self):
                    self._take(row, words)
            except Exception as error:  # of a runtime or a wrong density: one setting ends, not the others
                self.failures.append(f"{words}: error: {first_line(error)}")
            self.complete = number + 1 == len(settings)
            keep()

    def _take(self, row: Row, words: str) -> None:
        """A wrong row is told and not shown: its time is of something else."""
        where = f"{words}, {row.mask} {row.density}"
        if row.error > TOLERANCE:
            self.failures.append(f"{where}: wrong: off by {row.error:.2g} of the largest output")
        else:
            self.rows.append(row)

    def ours(self, model: bytes, threads: int) -> OrtRunner:
        """ONNX Runtime with the library."""
        return OrtRunner(model, threads, None if self.library == NO_LIBRARY else self.library)

    def candidates(
        self, model: onnx.ModelProto, threads: int, feeds: dict[tuple[str, float], Array], suffix: str = ""
    ) -> list[Candidate]:
        """Ours on all feeds; the others, whose work is the same for every mask, on the first."""
        gated, dense = model.SerializeToString(), dense_bytes(model)
        rivals: list[tuple[str, Callable[[], Runner]]] = [
            ("dense", lambda: OrtRunner(dense, threads)),
            ("function", lambda: OrtRunner(gated, threads)),
        ]
        if openvino_there():
            rivals.append(("openvino", lambda: OpenVinoRunner(dense, threads)))
        first = next(iter(feeds.values()))
        mine = Candidate(f"ours{suffix}", lambda: self.ours(gated, threads), {label(*key): x for key, x in feeds.items()})
        return [*(Candidate(f"{name}{suffix}", load, {"": first}) for name, load in rivals), mine]


def label(mask: str, density: float) -> str:
    """Name of a feed."""
    return f"{mask} {density:g}"


def errors(bench: Bench, model: onnx.ModelProto, threads: int, feeds: dict[tuple[str, float], Array]) -> list[float]:
    """For each feed: how far ours is from the function."""
    gated = model.SerializeToString()
    function = OrtRunner(gated, threads)
    want = [function.run(x).copy() for x in feeds.values()]
    del function
    ours = bench.ours(gated, threads)
    return [relative_error(ours.run(x), expected) for x, expected in zip(feeds.values(), want, strict=True)]


def densities_seen(model: onnx.ModelProto, feeds: dict[tuple[str, float], Array]) -> list[float]:
    """For each feed: active pixels over all, the mean of the gated layers.

    Raises:
        RuntimeError: a layer whose density is not the wanted one.
    """
    probing = OrtRunner(gate_outputs(model), 1)
    seen = []
    for (_, wanted), x in feeds.items():
        parts = []
        for name, g in probing.run_all(x).items():
            parts.append(float((g > 0).mean()))
            pixels = g.shape[2] * g.shape[3]
            if abs(parts[-1] - wanted) > max(DENSITY_TOLERANCE, 1 / pixels):
                raise RuntimeError(f"{name}: density {parts[-1]:.4f} instead of {wanted:g}")
        seen.append(sum(parts) / len(parts))
    return seen


def measure_layer(bench: Bench, layer: Layer, given: Conditions) -> list[Row]:
    """Time one layer.

    The time is the difference between a longer and a shorter network of such layers, over the
    layers between.
    """
    feeds = {key: layer_input(layer, given.batch, *key) for key in given.pairs()}
    net, check = layer_net(layer, 2, given.batch, given.gate, whole=True)
    wrong, seen = errors(bench, check, given.threads, feeds), densities_seen(check, feeds)
    more = layers_between(layer, given.batch)
    candidates = []
    for suffix, count in ((" short", 1), (" long", 1 + more)):
        model = layer_net(layer, count, given.batch, given.gate)[1]
        candidates += bench.candidates(model, given.threads, feeds, suffix)
    found = race(candidates, given.threads, bench.plan)
    samples = found.samples

    def times(name: str, feed: str = "") -> Times:
        return marginal(samples[f"{name} short", feed], samples[f"{name} long", feed], more)

    kind = "chain" if layer.chains else "siblings"
    ideals = [net.ideal(density) for density in seen]
    facts = {"subject": layer.name, "kind": kind, "ideals": ideals, "cpu_share": found.cpu_share}
    return _rows(given, facts, times, seen, wrong)


def layers_between(layer: Layer, batch: int) -> int:
    """How many more layers the long network has: at 100 GFLOP/s, as many as take about CHAIN_US."""
    return min(MOST, max(FEWEST, round(CHAIN_US / (2 * layer.macs(batch) / 1e5))))


def measure_network(bench: Bench, network: Any, given: Conditions) -> list[Row]:
    """Times of a whole network.

    Args:
        network: a networks.Network.
    """
    net, model = network.build(given.batch, given.gate)
    feeds = {key: network.feed(given.batch, *key) for key in given.pairs()}
    wrong, seen = errors(bench, model, given.threads, feeds), densities_seen(model, feeds)
    found = race(bench.candidates(model, given.threads, feeds), given.threads, bench.plan)

    def times(name: str, feed: str = "") -> Times:
        return summary(found.samples[name, feed])

    ideals = [net.ideal(density) for density in seen]
    facts = {"subject": network.name, "kind": "network", "ideals": ideals, "cpu_share": found.cpu_share}
    return _rows(given, facts, times, seen, wrong)


def _rows(
    given: Conditions, facts: dict[str, Any], times: Callable[..., Times], seen: Sequence[float], wrong: Sequence[float]
) -> list[Row]:
    there = openvino_there()
    base = Row(
        subject=facts["subject"],
        kind=facts["kind"],
        batch=given.batch,
        threads=given.threads,
        mask="",
        gate=given.gate,
        density=0.0,
        seen=0.0,
        ours=times("dense"),
        dense=times("dense"),
        function=times("function"),
        openvino=times("openvino") if there else None,
        ideal=1.0,
        error=0.0,
        cpu_share=facts["cpu_share"],
    )
    return [
        replace(base, mask=m, density=d, seen=s, ours=times("ours", label(m, d)), ideal=ideal, error=e)
        for (m, d), s, ideal, e in zip(given.pairs(), seen, facts["ideals"], wrong, strict=True)
    ]
