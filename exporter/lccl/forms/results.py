"""What a choice of forms came to: a row for each layer, the networks' times, the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from lccl.console.text import count, percent, table
from lccl.forms.densities import LayerDensity

Form = Literal["gated", "standard ops", "joined", "dense"]
"""Of a gated layer: "gated" (the op skips closed pixels) or "standard ops" (every pixel). Of a
dense one: "joined" (by the op's kernels) or "dense" (ONNX Runtime's own)."""


@dataclass(frozen=True)
class LayerChoice:
    """One convolution."""

    name: str
    form: Form
    reason: str
    dense_us: float | None
    """Microseconds within the dense twin; None where its time cannot be told from others'."""
    chosen_us: float | None
    """Microseconds within the chosen network."""
    density: LayerDensity | None = None
    """None for a dense layer."""


@dataclass(frozen=True)
class NetworkTime:
    """The time of one form of the whole network, in milliseconds, interleaved with the others'."""

    what: str
    """"chosen", "all gated", "all in standard ops", "the file as it was", "dense twin" or
    "baseline"."""
    median: float
    p10: float
    p90: float
    over_chosen: float
    """The median over the rounds of its time over that of the chosen form."""


@dataclass(frozen=True)
class Choice:
    """The forms of all layers, and what was measured for them."""

    layers: tuple[LayerChoice, ...]
    times: tuple[NetworkTime, ...]
    written: str
    """Which of the forms was written: "chosen", or one that was faster than it."""
    threads: int
    batch: int
    samples: int
    """That the densities are of; 0: random inputs."""
    isa: str
    """The instruction set of the kernels: "avx2"."""
    machine: str
    layout_changes: tuple[int, int]
    """Nodes that only change a layout: in the file as it was, and in the chosen form."""
    trials: tuple[dict[str, object], ...] = ()

    def time(self, what: str) -> NetworkTime | None:
        """Return the time of one form; None if it was not measured."""
        return next((t for t in self.times if t.what == what), None)

    @property
    def gain(self) -> float:
        """How many times as fast as the dense network the written one is.

        The dense network is the baseline, else the dense twin.
        """
        dense = self.time("baseline") or self.time("dense twin")
        written = self.time(self.written)
        assert dense is not None
        assert written is not None
        return dense.over_chosen / written.over_chosen

    @property
    def never(self) -> tuple[str, ...]:
        """Gated layers that take longer than dense ones do."""
        return tuple(
            layer.name
            for layer in self.layers
            if layer.density is not None and layer.dense_us and layer.chosen_us and layer.chosen_us > layer.dense_us
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "gain": self.gain, "slower_than_dense": list(self.never)}

    @property
    def verdict(self) -> str:
        """The first sentence of a report."""
        what = "the baseline" if self.time("baseline") else "its dense twin"
        threads = count(self.threads, "thread")
        if self.gain >= 1:
            return f"{self.gain:.2f}x as fast as {what} on {threads}, batch {self.batch}."
        layers = f": {', '.join(self.never)} should not have a gate" if self.never else ""
        return f"SLOWER than {what}, which takes {self.gain:.2f} of its time on {threads}, batch {self.batch}{layers}."

    def __str__(self) -> str:
        return "\n".join([self.verdict, "", self.table_of_layers(), "", self.table_of_times(), "", self.notes()])

    def table_of_layers(self) -> str:
        """A row for each convolution."""
        rows = [
            (
                layer.name,
                layer.form,
                percent(layer.density.median if layer.density else None),
                percent(layer.density.p90 if layer.density else None),
                _micro(layer.dense_us),
                _micro(layer.chosen_us),
                layer.reason,
            )
            for layer in self.layers
        ]
        return table(("layer", "form", "density", "p90", "dense us", "chosen us", "why"), rows, right=(2, 3, 4, 5))

    def table_of_times(self) -> str:
        """A row for each form of the whole network."""
        rows = [(t.what, f"{t.median:.3f}", f"{t.p10:.3f} to {t.p90:.3f}", f"{t.over_chosen:.2f}") for t in self.times]
        return table(("network", "ms", "10 to 90 %", "of the chosen"), rows, right=(1, 2, 3))

    def notes(self) -> str:
        """What the numbers are of."""
        of = f"{count(self.samples, 'sample')}" if self.samples else "random inputs, which real densities may differ from"
        before, after = self.layout_changes
        return (
            f"Densities of {of}. Layout changes: {before} before, {after} now. Kernels: {self.isa}. {self.machine}.\n"
            f"Written: {self.written}."
        )


def _micro(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
