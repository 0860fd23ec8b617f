"""What a comparison finds. A comparison is true where every limit passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from lccl.backends.onnxruntime.runner import PLAIN, WITH_LIBRARY
from lccl.console.text import count, percent, table
from lccl.errors.deprecation import renamed_fields
from lccl.profiling import NetworkProfile

Role = Literal["lccl", "baseline", "dense twin"]
"""Which network a row is of: the gated one, the dense one to beat, or the gated one with every gate
taken as 1."""


@dataclass(frozen=True)
class Latency:
    """The latency of one inference, in milliseconds."""

    median_ms: float
    p95_ms: float
    runs: int
    p5_ms: float | None = None
    """The 5th percentile: together with the 95th, the spread."""


@dataclass(frozen=True)
class Row:
    """One network in one runtime, over the same inputs as all others."""

    network: str
    role: Role
    runner: str
    device: str
    skipped: str | None = None
    """Why it did not run; nothing else is known of it then."""
    accuracy: float | None = None
    """Top-1, where there are labels. A dense twin was not trained with its gates at 1, so its
    accuracy says nothing."""
    top_k: float | None = None
    """The fraction of samples whose label is among the classes with the k largest scores, where k
    was asked for."""
    metric: float | None = None
    """The mean of the metric that the caller named, where it is not a dense twin's."""
    metric_values: tuple[float, ...] | None = None
    """The metric of each sample, where it has one."""
    reference: str | None = None
    """The row that errors and agreement are against: the first of the same network, or, for the
    first, the baseline."""
    agreement: float | None = None
    """Fraction of equal predictions."""
    max_error: float | None = None
    mean_error: float | None = None
    latency: Latency | None = None
    throughput: Mapping[int, float] = field(default_factory=dict)
    """Batch -> samples per second, for the batches that were asked for."""
    speedup: float | None = None
    """Median latency of the baseline, or of the dense twin where there is none, in the same runtime
    on the same device / median latency of this row. ONNX Runtime is one runtime, with the CPU op
    and without."""
    speedup_over: str | None = None
    speedup_over_twin: float | None = None
    """The speed-up over the dense twin, whether there is a baseline or not."""

    @property
    def label(self) -> str:
        """The row's name in messages and in the table."""
        return f"{self.network} ({self.runner})"

    @property
    def runtime(self) -> str:
        """The runtime of the dense network to beat.

        It has no gates, so the CPU op does not run in it.
        """
        return PLAIN if self.runner == WITH_LIBRARY else self.runner


@renamed_fields(held="passed")
@dataclass(frozen=True)
class Check:
    """A limit that the caller set, and what was measured."""

    name: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class Environment:
    """How latencies were measured."""

    images: int
    threads: int
    batch: int
    cpu: str
    top_k: int | None = None
    """The k of the rows' ``top_k``."""
    warmup: int = 0
    """Rounds that were not measured."""


@renamed_fields(setting="environment")
@dataclass(frozen=True)
class Comparison:
    """All rows, the LCCL network's profile, and the limits; true where every limit passed."""

    rows: tuple[Row, ...]
    profile: NetworkProfile | None
    checks: tuple[Check, ...]
    environment: Environment
    metric: str | None = None
    """The name of the metric that the caller named, with which of its values are better."""

    def __bool__(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; what was renamed is also there by its old name, until 0.3."""
        environment = asdict(self.environment)
        return {
            "passed": bool(self),
            "environment": environment,
            "metric": self.metric,
            "rows": [asdict(row) for row in self.rows],
            "checks": [asdict(check) | {"held": check.passed} for check in self.checks],
            "profile": self.profile.as_dict() if self.profile else None,
            "held": bool(self),
            "setting": environment,
        }

    def __str__(self) -> str:
        s = self.environment
        parts = [self._rows_table()]
        parts.append(
            f"{count(s.images, 'input')}; "
            + (f"latency of batch {s.batch}, runs of all rows interleaved, " if s.batch else "latency not measured, ")
            + f"{count(s.threads, 'CPU thread')}, on {s.cpu}."
        )
        if self.metric is not None:
            parts.append(f"Metric: {self.metric}.")
        if s.top_k is not None:
            shown = ", ".join(f"{row.label} {percent(row.top_k)}" for row in self.rows if row.top_k is not None)
            parts.append(f"Top-{s.top_k}: {shown or 'not known'}.")
        parts += [
            f"Samples per second of {row.label}: {', '.join(f'{rate:.0f} at batch {batch}' for batch, rate in row.throughput.items())}."
            for row in self.rows
            if row.throughput
        ]
        parts += self._speedup_lines()
        parts += [f"Not run: {row.label}: {row.skipped}." for row in self.rows if row.skipped]
        if self.profile is not None:
            parts += ["", str(self.profile)]
        if self.checks:
            parts += ["", self._checks_table()]
        return "\n".join(parts)

    def _speedup_lines(self) -> list[str]:
        """The lines that say what the speed-ups are over, and those over the dense twin."""
        names = {row.label: "the dense twin" if row.role == "dense twin" else row.network for row in self.rows}
        over = {row.network: names[row.speedup_over] for row in self.rows if row.speedup_over is not None}
        if not over:
            return []
        same = len(set(over.values())) == 1
        pairs = (f"{network} over {name}" for network, name in over.items())
        lines = [f"Speed-up: {f'over {next(iter(over.values()))}' if same else ', '.join(pairs)}, in the same runtime."]
        twins = [row for row in self.rows if row.speedup_over_twin is not None and row.speedup_over_twin != row.speedup]
        if twins:
            lines.append(f"Over the dense twin: {', '.join(f'{r.label} {r.speedup_over_twin:.2f}x' for r in twins)}.")
        return lines

    def _rows_table(self) -> str:
        devices = len({row.device for row in self.rows if not row.skipped}) > 1
        head = ("network", "runner", "top-1", "agrees", "with", "max error", "mean error", "median ms", "p95 ms", "speed-up")
        rows = []
        for row in self.rows:
            if row.skipped:
                continue
            rows.append(
                (
                    row.network,
                    f"{row.runner} on {row.device}" if devices else row.runner,
                    "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
                    "-" if row.agreement is None else f"{100 * row.agreement:.2f} %",
                    row.reference or "-",
                    _error(row.max_error),
                    _error(row.mean_error),
                    f"{row.latency.median_ms:.3f}" if row.latency else "-",
                    f"{row.latency.p95_ms:.3f}" if row.latency else "-",
                    "-" if row.speedup is None else f"{row.speedup:.2f}x",
                )
            )
        if self.metric is None:
            return table(head, rows, right=(2, 3, 5, 6, 7, 8, 9))
        values = ["-" if row.metric is None else f"{row.metric:.4g}" for row in self.rows if not row.skipped]
        rows_with = [(*row[:3], value, *row[3:]) for row, value in zip(rows, values, strict=True)]
        return table((*head[:3], "metric", *head[3:]), rows_with, right=(2, 3, 4, 6, 7, 8, 9, 10))

    def _checks_table(self) -> str:
        rows = [(c.name, f"{c.value:.4g}", f"{c.limit:.4g}", "passed" if c.passed else "FAILED") for c in self.checks]
        return table(("limit", "measured", "allowed", ""), rows, right=(1, 2))


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
