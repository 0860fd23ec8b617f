#!/usr/bin/env python3
"""Fits the constants of the kernels' time model to what a GPU measured.

The model is the library's own; nothing here needs a GPU.

Reads a results file of bench/gpu/check.py. Constants that a ceiling is a measurement of are taken
from it; the others are fitted to the rows of the benchmark. Prints the error of the predictions
before and after, by family, and the constants as ``predict.cpp`` has them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.command_line import Parser
from bench.gpu.results import Record, of_kind, read

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lccl.backends.torch.cuda.interface import ConvParams, Device, Rates
    from lccl.backends.torch.cuda.library import Library

    Array = npt.NDArray[np.float64]

STEPS = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015)
"""Of a constant's logarithm, one after the other."""
ROUNDS = 12
"""Over all constants with one step, at most."""
LEAST_GAIN = 1e-4
"""That a step has to bring: constants of which the measurements say nothing stay as they are."""
MEAN_WEIGHT = 0.2
"""Of the mean error beside the median, which alone does not see half of the rows."""
MEAN_CUT = 1.0
"""An error counts as no more in the mean."""
NEARNESS = 0.004
"""Weight of a constant's way from where it began, in its logarithm: of constants that make up for
each other, most stay."""
STARTS = 12
"""Descents: each begins beside the best one so far."""
SHARE = "tile_"
"""Constants of this beginning are shares of a rate, at most 1."""
LEAST_ROWS = 8
CEILINGS = {"copy": ("dram_bytes", "GB/s", 1e9)}
"""Name of a ceiling -> the constant that it measures, and its unit."""


@dataclass(frozen=True)
class Sample:
    """One measured call."""

    params: ConvParams
    config: int
    family: str
    us: float


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser(
        "bench/gpu/fit.py", description="Fits the constants of the kernels' time model to a results file of bench/gpu/check.py."
    )
    p.add_argument("results", type=Path, nargs="+", help="results.jsonl, of one GPU")
    p.add_argument("--library", metavar="PATH", help="that has the model (default: $LCCL_CUDA_LIBRARY, else the package's own)")
    p.add_argument("--device", metavar="CCxSMS", help="such as 9.0x132 (default: as the results say)")
    return p


def device_of(records: Sequence[Record], given: str | None) -> Device:
    """What the results were measured on.

    Raises:
        UserError: they do not say it, or name more than one.
    """
    from lccl.backends.torch.cuda.planning import parse_device
    from lccl.errors import UserError

    if given:
        return parse_device(given)
    names = ("compute_capability", "multiprocessors", "shared_per_block", "shared_per_multiprocessor")
    known = [r["facts"] for r in of_kind(records, "facts") if all(name in r.get("facts", ()) for name in names)]
    texts = {"x".join(str(facts[name]) for name in names) for facts in known}
    if len(texts) != 1:
        raise UserError(f"the results name {len(texts)} GPUs: say which one it was by --device, such as 9.0x132")
    return parse_device(texts.pop())


def of_last_library(records: Sequence[Record]) -> tuple[list[Record], int]:
    """The records of runs of the last run's library, and how many rows of others are left out.

    Runs follow each other in a file, and kernels are mended between them.
    """
    runs: list[list[Record]] = [[]]
    for record in records:
        if record["kind"] == "run":
            runs.append([])
        runs[-1].append(record)
    libraries = [[r["sha256"] for r in of_kind(run, "library")] for run in runs]
    named = [names[-1] for names in libraries if names]
    kept = [run for run, names in zip(runs, libraries, strict=True) if not named or (names and names[-1] == named[-1])]
    rows = sum(len(of_kind(run, "row")) for run in runs) - sum(len(of_kind(run, "row")) for run in kept)
    return [record for run in kept for record in run], rows


def samples_of(records: Sequence[Record], library: Library) -> list[Sample]:
    """The rows of the benchmark, and the kernels that were timed by themselves."""
    from bench.gpu.settings import Setting
    from lccl.backends.torch.cuda.interface import Kernels

    names = {config.name: config for config in library.configs()}
    samples = []
    for row in of_kind(records, "row"):
        config, us = names.get(row["config"]), float(row["times"]["median"])
        if config is not None and us > 0:
            samples.append(Sample(Setting.of_row(row).params(), config.id, config.family.name.lower(), us))
    for record in of_kind(records, "ceiling"):
        config = names.get(record.get("config", ""))
        if config is None or "call" not in record:
            continue
        for kernel in Kernels:
            us = record["us"].get(str(kernel.name).lower(), 0)
            params = Setting.of_row(record["call"]).params()
            params.kernels = kernel
            if us > 0:
                samples.append(Sample(params, config.id, f"{str(kernel.name).lower()} alone", us))
    return samples


def measured_of(records: Sequence[Record]) -> dict[str, float]:
    """Constants that the last ceilings measured by themselves."""
    found = {}
    for record in of_kind(records, "ceiling"):
        constant, unit, factor = CEILINGS.get(record["name"], ("", "", 0.0))
        if constant and record.get("unit") == unit and (record.get("value") or 0) > 0:
            found[constant] = float(record["value"]) * factor
    return found


# ---- the fit -------------------------------------------------------------------------------------


class Model:
    """The library's own predictions as a function of its constants."""

    def __init__(
        self, library: Library, device: Device, samples: Sequence[Sample], measured: Mapping[str, float] | None = None
    ) -> None:
        """The model's constants, and where they begin.

        Args:
            measured: constants that are known and not fitted.
        """
        import numpy as np

        from lccl.backends.torch.cuda.interface import Rates

        self._np = np
        self._library = library
        self._device = device
        self._samples = samples
        self._measured = np.log([sample.us for sample in samples])
        self.names = [str(field[0]) for field in Rates._fields_]
        self.measured = dict(measured or {})
        self.free = [i for i, name in enumerate(self.names) if name not in self.measured]
        """Numbers of the constants that are fitted."""
        self._start = self.start()

    def own(self) -> Array:
        """Logarithms of the device's own constants."""
        own = self._library.rates(self._device)
        return self._np.log([getattr(own, name) for name in self.names])

    def start(self) -> Array:
        """The same with what was measured in its place."""
        known = [self.measured.get(name, 0.0) for name in self.names]
        return self._np.array([self._np.log(new) if new else old for new, old in zip(known, self.own(), strict=True)])

    def rates(self, logs: Array) -> Rates:
        from lccl.backends.torch.cuda.interface import Rates

        return Rates(*(float(value) for value in self._np.exp(logs)))

    def errors(self, logs: Array) -> Array:
        """Logarithm of predicted over measured time."""
        rates = self.rates(logs)
        predict = self._library.predict
        times = [predict(s.params, self._device, s.config, rates) or float("nan") for s in self._samples]
        return self._np.log(times) - self._measured

    def loss(self, logs: Array) -> float:
        """The median absolute error, and a little of the mean."""
        errors = self._np.abs(self.errors(logs))
        shares = [value for name, value in zip(self.names, logs, strict=True) if name.startswith(SHARE)]
        if not self._np.isfinite(errors).all() or max(shares) > 0:
            return float("inf")
        far = NEARNESS * self._np.abs(logs - self._start).mean()
        return float(self._np.median(errors) + MEAN_WEIGHT * self._np.minimum(errors, MEAN_CUT).mean() + far)


def fit(model: Model, tell: Callable[[str], None] = lambda _: None) -> Array:
    """Logarithms of the constants: the best of several descents from the device's own.

    The same for the same samples.
    """
    import numpy as np

    best = _descend(model, model.start())
    rng = np.random.default_rng(0)
    for number in range(1, STARTS):
        beside = best.copy()
        beside[model.free] += rng.normal(0, 0.4, len(model.free)) * (rng.random(len(model.free)) < 0.5)
        tried = _descend(model, beside)
        if model.loss(tried) < model.loss(best):
            best = tried
        tell(f"descent {number + 1} of {STARTS}: {model.loss(best):.4f}")
    for i, own in enumerate(model.start()):  # what makes no difference goes back to where it was
        tried = best.copy()
        tried[i] = own
        if model.loss(tried) <= model.loss(best) + LEAST_GAIN:
            best = tried
    return best


def _descend(model: Model, start: Array) -> Array:
    """Coordinate descent with ever smaller steps."""
    best, least = start, model.loss(start)
    for step in STEPS:
        for _ in range(ROUNDS):
            before = least
            for i in model.free:
                for way in (step, -step):
                    while True:
                        tried = best.copy()
                        tried[i] += way
                        loss = model.loss(tried)
                        if not loss < least - LEAST_GAIN:
                            break
                        best, least = tried, loss
            if not before - least >= LEAST_GAIN:
                break
    return best


def table_of(model: Model, samples: Sequence[Sample], start: Array, end: Array) -> list[str]:
    """Errors by family: the median of how far off a prediction is, as a factor."""
    import numpy as np

    from lccl.console.text import table

    def factor(errors: Array) -> str:
        return f"{np.exp(np.median(np.abs(errors))):.3f}x"

    before, after = model.errors(start), model.errors(end)
    rows = []
    for family in (*dict.fromkeys(sample.family for sample in samples), "all"):
        mine = np.array([family in (sample.family, "all") for sample in samples])
        rows.append((family, str(int(mine.sum())), factor(before[mine]), factor(after[mine])))
    return table(("family", "rows", "off by, before", "after"), rows, right=(1, 2, 3)).splitlines()


def code_of(model: Model, start: Array, end: Array) -> list[str]:
    """The constants as ``ratesOf`` of predict.cpp sets them, with what they were."""
    import numpy as np

    lines = []
    for name, old, new in zip(model.names, np.exp(start), np.exp(end), strict=True):
        if name in model.measured:
            said = f"measured as a ceiling; was {old:.4g}"
        else:
            said = f"was {old:.4g}" if abs(np.log(new / old)) > 1e-9 else "as it was: no row speaks against it"
        lines.append(f"    rates.{name} = {new:.4g}; // {said}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 1 after one sentence.
    """
    options = parser().parse_args(arguments)
    from lccl.backends.torch.cuda.library import load
    from lccl.errors import UserError

    try:
        given = [record for path in options.results for record in _records(path)]
        records, dropped = of_last_library(given)
        if dropped:
            print(f"{dropped} rows are of other libraries than the last run's: left out", file=sys.stderr)
        library = load(options.library)
        device = device_of(records, options.device)
        try:
            samples = samples_of(records, library)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"a row is not as bench/gpu/check.py writes it ({type(error).__name__}: {error})") from None
        if len(samples) < LEAST_ROWS:
            raise UserError(f"{len(samples)} rows are too few for a fit: run bench/gpu/check.py --part B")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    model = Model(library, device, samples, measured_of(records))
    start = model.own()
    end = fit(model, lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(table_of(model, samples, start, end)))
    where = f"{device.compute_capability / 10:.1f} with {device.sm_count} multiprocessors"
    print(f"\n    // Compute capability {where}: {len(samples)} rows of {', '.join(map(str, options.results))}")
    print(f"    if (device.compute_capability == {device.compute_capability})\n    {{")
    print("\n".join(f"    {line}" for line in code_of(model, start, end)))
    print("    }")
    return 0


def _records(path: Path) -> list[Record]:
    from lccl.errors import UserError

    if not path.is_file():
        raise UserError(f"there is no results file at {path}")
    records = read(path)
    if not of_kind(records, "row") and not of_kind(records, "run"):
        raise UserError(f"{path} is no results file of bench/gpu/check.py")
    return records


if __name__ == "__main__":
    raise SystemExit(main())
