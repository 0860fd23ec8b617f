"""What the CPU benchmarks share: the machine's facts, masks, times, and a row of results."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CLUSTER = 8
"""Cells of the smooth noise of a blob mask, in pixels of the finest map."""
MASKS = ("blob", "random")
GATES = ("1x1", "kxk")
"""Kernel of the fused gate: one pixel, or the convolution's own."""
NO_LIBRARY = "none"
"""In place of a library's path: the function body stands for ours, to try a command out."""


def cpu_facts(command: Sequence[str], library: str) -> dict[str, Any]:
    """What a number needs beside it: CPU, instructions, versions, date, command.

    Args:
        library: path of the custom-op library, or NO_LIBRARY.
    """
    model, flags = _cpuinfo()
    wanted = ("avx2", "fma", "avx512f", "avx512vl", "amx_tile", "asimd")
    return {
        "cpu": model,
        "instructions": " ".join(flag for flag in wanted if flag in flags) or "unknown",
        "logical_cores": os.cpu_count(),
        "l2_bytes": _cache("index2"),
        "l3_bytes": _cache("index3"),
        "onnxruntime": _version("onnxruntime"),
        "openvino": _version("openvino"),
        "python": platform.python_version(),
        "library": _library_words(library),
        "kernels": _isa(library),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(command),
    }


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """The processor's name and its instruction flags as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = pairs.get("flags", pairs.get("Features", ""))
    return pairs.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def _cache(index: str) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu0/cache/{index}/size").read_text().strip()
    except OSError:
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _isa(library: str) -> str:
    """Of the library's kernels: the instructions that they use here."""
    from lccl.backends.onnxruntime.library import cpu_isa

    return "none" if library == NO_LIBRARY else cpu_isa(library) or "unknown"


def _library_words(library: str) -> str:
    if library == NO_LIBRARY:
        return "none: the function body stands for ours"
    from lccl.files import sha256

    return f"{Path(library).name}, sha256 {sha256(library)[:16]}"


# ---- masks ---------------------------------------------------------------------------------------


def field(size: int, kind: str, rng: np.random.Generator) -> Array:
    """Noise [size, size] whose largest values are a mask of that kind.

    Args:
        kind: "random": each pixel by itself; "blob": smooth over about CLUSTER pixels.
    """
    if kind == "random":
        return rng.random((size, size))
    if kind != "blob":
        raise ValueError(f"a mask is blob or random, not {kind!r}")
    knots = -(-size // CLUSTER) + 1
    coarse = rng.standard_normal((knots, knots))
    places = np.linspace(0, knots - 1, size)
    rows = np.stack([np.interp(places, np.arange(knots), line) for line in coarse])
    return np.stack([np.interp(places, np.arange(knots), line) for line in rows.T]).T


def top(values: Array, count: int) -> Array:
    """A bool map with the ``count`` largest values set."""
    chosen = np.zeros(values.size, bool)
    if count > 0:
        chosen[np.argsort(values, axis=None, kind="stable")[values.size - count :]] = True
    return chosen.reshape(values.shape)


def mask(size: int, density: float, kind: str, rng: np.random.Generator) -> Array:
    """A bool map [size, size] with round(density * pixels) pixels set, at least one."""
    return top(field(size, kind, rng), max(1, round(density * size**2)))


# ---- results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Microseconds, over several rounds."""

    median: float
    p10: float
    p90: float
    rounds: int


def summary(microseconds: Sequence[float]) -> Times:
    """Median and spread."""
    ordered = sorted(microseconds)
    tenth = len(ordered) // 10
    return Times(statistics.median(ordered), ordered[tenth], ordered[len(ordered) - 1 - tenth], len(ordered))


def marginal(short: Sequence[float], long: Sequence[float], more: int) -> Times:
    """Time of one of the ``more`` layers that the long network has beyond the short one.

    The spread is that of the long network's times.
    """
    base, whole = summary(short), summary(long)
    median, p10, p90 = ((t - base.median) / more for t in (whole.median, whole.p10, whole.p90))
    return Times(median, p10, p90, whole.rounds)


@dataclass(frozen=True)
class Row:
    """One layer or network at one density, beside its rivals.

    Times are microseconds of one layer or of the whole network.
    """

    subject: str
    """The layer or the network."""
    kind: str
    """chain: a layer among equal ones, one after the other; siblings: beside equal ones on one
    input; network: whole."""
    batch: int
    threads: int
    mask: str
    gate: str
    density: float
    """Wanted."""
    seen: float
    """Active pixels over all, of the mean gated layer, as the function computes them."""
    ours: Times
    dense: Times
    function: Times
    openvino: Times | None
    """The dense network in OpenVINO; None where it is not installed."""
    ideal: float
    """Dense MACs over MACs of active pixels and gates."""
    error: float
    """Largest difference between ours and the function, relative to the largest output."""
    cpu_share: float | None = None
    """CPU time over the time that passed, of the setting: below 1, something else had the core.
    None with more threads."""

    @property
    def ratio(self) -> float:
        """Dense time over ours: above 1, ours takes less."""
        return self.dense.median / self.ours.median

    @property
    def efficiency(self) -> float:
        """The part of the ideal that the ratio reaches."""
        return self.ratio / self.ideal

    @property
    def function_ratio(self) -> float:
        """Dense time over the function's."""
        return self.dense.median / self.function.median

    @property
    def openvino_ratio(self) -> float | None:
        """OpenVINO's dense time over ours."""
        return None if self.openvino is None else self.openvino.median / self.ours.median

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "ratio": self.ratio,
            "efficiency": self.efficiency,
            "function_ratio": self.function_ratio,
            "openvino_ratio": self.openvino_ratio,
        }
