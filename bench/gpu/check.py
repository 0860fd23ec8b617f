#!/usr/bin/env python3
"""Build, check and measure the CUDA kernels on a GPU that is at hand for minutes.

What the command learns is in the folder of results from the first second on.

Nothing that touches the GPU runs in this process, so that a kernel that hangs or breaks a context
ends its own step at most. Nothing is downloaded. Needs PyTorch with CUDA; nvcc and cmake, or a
library that was built elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.command_line import Parser
from bench.gpu import build as gpu_build
from bench.gpu import smoke as gpu_smoke
from bench.gpu import verdict as gpu_verdict
from bench.gpu.build import Build, chosen_library, compute_capability
from bench.gpu.process import ROOT
from bench.gpu.profile import profile
from bench.gpu.results import REPORT, VERDICT, Record, Results, last_run, of_kind, outcome, read
from bench.gpu.sanitizer import sanitize
from bench.gpu.supervisor import Limits, State, Supervised
from bench.gpu.verdict import REFUSED

WEIGHTS = {
    "build": 2.0,
    "smoke": 2.0,
    "ceilings": 1.5,
    "sweep": 2.0,
    "masks": 0.5,
    "offsets": 0.5,
    "graph": 0.5,
    "streams": 0.5,
    "plugin": 0.5,
    "bench": 3.0,
    "sanitizer": 2.0,
    "profile": 2.0,
}
"""Step -> its share of the time; what one leaves goes to those after it."""
PARTS = {
    "A": ("build", "smoke", "ceilings", "bench"),
    "B": ("build", "smoke", "sweep", "masks", "offsets", "graph", "streams", "plugin", "bench", "sanitizer"),
    "profile": ("build", "profile"),
}
MINUTES = {"A": 2.5, "B": 8.0, "profile": 3.0}
REHEARSED = ("build", "smoke", "ceilings", "sweep", "masks", "bench")
"""Steps that the emulated machine can do."""
SLOWER = {"ceilings": 3.0, "offsets": 3.0, "bench": 3.0}
"""Step -> how many times longer than in the others one of its items may take."""
SILENT = ("plugin",)
"""Steps whose process says nothing before its end."""
LEAST_S = 8.0
"""Seconds without which a step is not begun."""
MARGIN_S = 3.0
"""Before a step's end, its process stops by itself."""


class InterruptedCheckError(BaseException):
    """A signal asks the check to end; no step takes it for a failure of its own."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser(
        "bench/gpu/check.py",
        description="Builds the CUDA kernels for this machine's GPU, checks them on it and measures them.",
        epilog="exit code: 0 all passed, 1 cannot run here, 2 something failed, 3 nothing failed but not all was done",
    )
    p.add_argument(
        "--part",
        choices=PARTS,
        default="B",
        help="A: build, first calls, ceilings, a few layers; B: all checks, the benchmark; profile: Nsight Compute (%(default)s)",
    )
    p.add_argument("--only", metavar="STEPS", help=f"with commas between, of {', '.join(WEIGHTS)}")
    default = ", ".join(f"{minutes:g} for {part}" for part, minutes in MINUTES.items())
    p.add_argument("--minutes", type=_minutes, help=f"for everything; steps stop in time (default: {default})")
    p.add_argument("--library", type=Path, metavar="PATH", help="used where the build fails or is not done in time")
    p.add_argument("--no-build", action="store_true", help="use --library at once")
    p.add_argument(
        "--out",
        type=Path,
        default=ROOT / "build" / "gpu_check",
        metavar="FOLDER",
        help="for results (default: build/gpu_check)",
    )
    p.add_argument(
        "--planted", action="store_true", help="with the step sanitizer: also run known faults, which its tools must find"
    )
    p.add_argument("--peak", type=float, metavar="TFLOPS", help="of the GPU, for the benchmark's per cent")
    p.add_argument(
        "--place", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal with the emulated machine's library"
    )
    p.add_argument("--item-seconds", type=float, default=10.0, help=argparse.SUPPRESS)
    p.add_argument("--build-folder", type=Path, default=gpu_build.FOLDER, help=argparse.SUPPRESS)
    return p


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 24 * 60:
        raise argparse.ArgumentTypeError(f"it takes minutes above 0, not {text!r}")
    return minutes


def refusal_of(options: argparse.Namespace, steps: Sequence[str]) -> str:
    """Why these options cannot be run with, in one sentence; empty if they can."""
    if options.no_build and options.library is None:
        return "--no-build needs --library PATH"
    if options.planted and "sanitizer" not in steps:
        return "--planted is of the step sanitizer, which is not asked for: add it to --only, or take --part B"
    if options.library is None:
        return ""
    from lccl.backends.torch.cuda.library import load
    from lccl.errors import UserError

    try:
        load(options.library)  # plans on the CPU; no CUDA context is made
    except UserError as error:
        return str(error)
    return ""


def steps_of(options: argparse.Namespace) -> list[str]:
    """The steps that are asked for, in the order in which they run; empty where one is unknown."""
    if options.only is None:
        return list(PARTS[options.part])
    asked = [step.strip() for step in options.only.split(",") if step.strip()]
    return [] if set(asked) - set(WEIGHTS) else [step for step in WEIGHTS if step in asked]


class Check:
    """One run."""

    def __init__(self, options: argparse.Namespace, steps: Sequence[str], command: str) -> None:
        self.options = options
        self.steps = list(steps)
        self.command = command
        self.results = Results(options.out)
        self.end = time.monotonic() + 60 * (options.minutes or MINUTES[options.part])
        self.library: Path | None = None
        self.build: Build | None = None
        self.bad: set[tuple[str, str]] = set()
        self.peak: float | None = options.peak
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        self._earlier = read(self.results.path)
        self.results.add("run", part=options.part, steps=self.steps, command=command, date=date)

    # ---- before the steps ------------------------------------------------------------------------

    def begin(self) -> str:
        """Starts the compiler before PyTorch is imported anywhere, then asks for the device.

        Why nothing can run here, or "".
        """
        builds = "build" in self.steps and not self.options.no_build
        capability = compute_capability() if builds else ""
        if capability:
            self.build = self._new_build(capability)
        self.write()
        told = self._supervised("facts", min(self.end, time.monotonic() + 90))
        if told["status"] == "refused":
            self.results.add("refused", words=told["words"])
            return str(told["words"])
        if "facts" in told:
            self.results.add("facts", facts=told["facts"])
            self.peak = told["facts"].get("peak_tflops")
        if builds and self.build is None:
            version = str(told.get("facts", {}).get("compute_capability", ""))
            self.build = self._new_build(version.replace(".", "") if version[:1].isdigit() else "")
        return ""

    def _new_build(self, capability: str) -> Build:
        targets = gpu_build.TARGETS if "plugin" in self.steps else gpu_build.TARGETS[:1]
        return Build(capability, self.results, self.options.build_folder, until=self.end, targets=targets)

    # ---- steps -----------------------------------------------------------------------------------

    def run(self) -> None:
        """All steps; the report and the verdict are written after each."""
        self.write()
        for number, step in enumerate(self.steps):
            began = time.monotonic()
            share = WEIGHTS[step] / sum(WEIGHTS[s] for s in self.steps[number:])
            if step == "build" or self.end - began > LEAST_S:
                done = self._attempt(step, began + share * (self.end - began))
            else:
                done = outcome("partial", "the time was up before it began")
            self.results.add("step", step=step, seconds=round(time.monotonic() - began, 1), **done)
            self.write()
            print(f"{step}: {done['status']}: {done['words']}".replace("\n", " ")[:300], file=sys.stderr, flush=True)

    def _attempt(self, step: str, until: float) -> Record:
        """A fault of this check ends one step and not the others."""
        try:
            return self._step(step, until)
        except Exception as error:
            return outcome("failed", "the check itself failed", traceback.format_exc().splitlines()[-8:] or [str(error)])

    def _step(self, step: str, until: float) -> Record:
        if step == "build":
            return self._build(until)
        if self.library is None:
            self._use(self._found())
        if self.library is None:
            return outcome("partial", "there is no library: the build failed or was not asked for; give one by --library")
        if self.options.place == "cpu" and step not in REHEARSED:
            return outcome("skipped", "needs a GPU")
        if step == "smoke":
            return self._smoke(until)
        if step == "sanitizer":
            return sanitize(self.library, self.results, until, planted=self.options.planted, without=sorted(self.bad))
        if step == "profile":
            return profile(self.library, self.results, until, sorted(self.bad))
        if step == "plugin" and self.build is not None:
            self.build.done[gpu_build.HOST].wait(max(0.0, until - time.monotonic() - LEAST_S))
        return self._supervised(step, until)

    def _build(self, until: float) -> Record:
        library, done = chosen_library(self.build, self.options.library, until)
        self._use(library)
        return done

    def _found(self) -> Path | None:
        """The library where no build was asked for: as given, else what an earlier run built."""
        if self.options.library is not None:
            return self.options.library if self.options.library.is_file() else None
        return next(iter(sorted(self.options.build_folder.rglob(gpu_build.LIBRARY))), None)

    def _use(self, library: Path | None) -> None:
        if library is None:
            return
        self.library = library.resolve()
        facts = gpu_build.facts_of(self.library)
        self.results.add("library", **facts)
        known = self._known(facts["sha256"])
        self.bad = gpu_smoke.bad(gpu_smoke.verdicts(known))

    def _known(self, sha256: str) -> list[Record]:
        """Results that an earlier, complete run of the first calls had for the same library."""
        for records in (self._earlier, read(self._kept())):
            last = last_run(records)
            ended = [r for r in of_kind(last, "step") if r["step"] == "smoke" and r.get("complete")]
            same = [r for r in of_kind(last, "library") if r["sha256"] == sha256]
            if ended and same and gpu_smoke.verdicts(last):
                return last
        return []

    def _kept(self) -> Path:
        """What the last run found in the first calls, beside what it built."""
        return Path(f"{self.options.build_folder}.smoke.jsonl")

    def _smoke(self, until: float) -> Record:
        assert self.library is not None
        known = [] if self.options.part == "A" else self._known(gpu_build.digest(self.library))
        if known:
            items = [r for r in of_kind(known, "item") if r["step"] == "smoke"]
            self.results.add("smoke_reused")
            for item in items:
                self.results.add("item", **{key: value for key, value in item.items() if key not in ("kind", "at")})
            words = f"the library is the one of an earlier run: {gpu_smoke.counts(gpu_smoke.verdicts(known))}"
            return outcome("failed" if self.bad else "skipped", words)
        done = self._supervised("smoke", until, most_restarts=200)
        found = gpu_smoke.verdicts(self.results.records())
        self.bad = gpu_smoke.bad(found)
        done["words"] = f"{gpu_smoke.counts(found)}; {done['words']}"
        if done.get("complete"):
            kinds = ("run", "library", "item")
            kept = [r for r in self.results.records() if r["kind"] in kinds] + [{"kind": "step", "step": "smoke", **done}]
            with contextlib.suppress(OSError):  # known for the next run; without it the first calls are made again
                self._kept().parent.mkdir(parents=True, exist_ok=True)
                self._kept().write_text("".join(f"{json.dumps(record)}\n" for record in kept))
        return done

    def _supervised(self, step: str, until: float, most_restarts: int = 6) -> Record:
        """A step in a process of its own."""

        def command(state: State) -> list[str]:
            seconds = max(1.0, until - time.monotonic() - MARGIN_S)
            options: dict[str, Any] = {
                "--place": self.options.place,
                "--seconds": f"{seconds:.1f}",
                "--state": json.dumps(state.as_dict()),
                "--library": self.library,
                "--peak": self.peak,
                "--quick": "mini" if self.options.part == "A" else "full",
                "--command": self.command,
            }
            given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
            return [sys.executable, str(ROOT / "bench" / "gpu" / "child.py"), step, *given]

        idle = max(1.0, until - time.monotonic()) if step in SILENT else Limits.idle
        limits = Limits(self.options.item_seconds * SLOWER.get(step, 1.0), idle)
        state = State(without=set() if step == "smoke" else set(self.bad))  # smoke says anew what is bad
        return Supervised(step, command, self.results, state, limits, most_restarts=most_restarts).run(until)

    # ---- the end ---------------------------------------------------------------------------------

    def write(self) -> None:
        """The report and the verdict of what there is."""
        records = self.results.records()
        self.results.write(VERDICT, "\n".join(gpu_verdict.verdict(records)) + "\n")
        self.results.write(REPORT, gpu_verdict.report(records))

    def close(self) -> None:
        if self.build is not None:
            self.build.stop()
        self.write()


def _interrupt(number: int, _frame: Any) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the end takes seconds, and must not be ended
    raise InterruptedCheckError(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code; see the parser's last line."""
    options = parser().parse_args(arguments)
    steps = steps_of(options)
    if not steps:
        print(f"error: --only takes steps of {','.join(WEIGHTS)}, not {options.only!r}", file=sys.stderr)
        return REFUSED
    refusal = refusal_of(options, steps)
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return REFUSED
    command = " ".join(("bench/gpu/check.py", *(sys.argv[1:] if arguments is None else arguments)))
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    try:
        check = Check(options, steps, command)
    except OSError as error:
        print(f"error: {options.out} cannot be written ({error.strerror}): name another folder by --out", file=sys.stderr)
        return REFUSED
    try:
        refusal = check.begin()
        if not refusal:
            check.run()
    except InterruptedCheckError as stop:
        check.results.add("interrupted", words=f"by {stop}, {check.end - time.monotonic():.0f} s before its time was up")
    finally:
        check.close()
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return REFUSED
    records = check.results.records()
    print("\n".join(gpu_verdict.verdict(records)), flush=True)
    return gpu_verdict.exit_code(records)


if __name__ == "__main__":
    raise SystemExit(main())
