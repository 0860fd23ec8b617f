"""The kernels under compute-sanitizer.

Small calls have to be clean, and each tool has to see its planted fault.

A filter that hides our kernels would hide every fault with them; a fault that is seen shows that it
does not. What a run found is read from its log: a planted fault takes the child's CUDA context with
it, so exit codes say little.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.build import nvcc_path, tool_path
from bench.gpu.process import ROOT, Done, Process, last_lines
from bench.gpu.results import Results, outcome

SEEN = {
    "memcheck": "Invalid __global__ write",
    "initcheck": "Uninitialized __global__",
    "racecheck": "Race reported",
    "synccheck": "Barrier error detected",
}
"""Tool -> what its log says of the fault that is planted for it."""
COMPILED = ("racecheck", "synccheck")
"""Tools whose faults are kernels of planted.cu: no call of the library can leave out a barrier."""
FOUND = 9
"""Exit code of compute-sanitizer that found something."""
RIGHT, LATE = "as it should be", "not in time"


@dataclass(frozen=True)
class Run:
    """One tool on the small calls, or on a call with a fault that it has to see."""

    tool: str
    planted: bool = False

    @property
    def label(self) -> str:
        return f"{self.tool} of a planted fault" if self.planted else self.tool


@dataclass(frozen=True)
class Verdict:
    """What a run's log says; true when all is as it should be."""

    state: str
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.state == RIGHT


def sanitizer_path() -> str | None:
    """compute-sanitizer, on the PATH or where the toolkit of nvcc has it."""
    return tool_path("compute-sanitizer", "compute-sanitizer/compute-sanitizer")


def sanitize(
    library: Path, results: Results, until: float, *, planted: bool = False, without: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """All tools at once, until time.monotonic() is ``until``.

    Args:
        planted: also the faults that each tool has to see.
        without: (configuration, type) that are bad: memcheck looks at them last, the other tools
            leave them out.
    """
    tool = sanitizer_path()
    if tool is None:
        return outcome("partial", "compute-sanitizer is neither on the PATH nor beside nvcc")
    try:
        asked = subprocess.run([tool, "--help"], capture_output=True, text=True, check=False, timeout=60)
    except (subprocess.TimeoutExpired, OSError) as error:
        return outcome("partial", f"compute-sanitizer does not answer: {type(error).__name__}")
    known = asked.stdout + asked.stderr
    with tempfile.TemporaryDirectory() as scratch:
        program, why_not = compile_planted(Path(scratch)) if planted else (None, "")
        running: dict[Run, Process] = {}
        try:
            for run in (Run(name, fault) for fault in ((False, True) if planted else (False,)) for name in SEEN):
                if run.planted and run.tool in COMPILED:
                    if program is None:
                        continue
                    target = [str(program), run.tool]
                else:
                    target = child(library, run, without)
                command = [tool, *arguments(run.tool, known), *target]
                # Without PyTorch's own cache every tensor is an allocation whose bounds the tool
                # knows.
                running[run] = Process(command, results.log("sanitizer"), label=run.label, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            verdicts = {}
            for run, process in running.items():
                verdicts[run] = judge(run, process.wait(until))
                results.add("sanitizer", tool=run.label, state=verdicts[run].state, faults=list(verdicts[run].faults))
        finally:
            for process in running.values():
                process.end()
    if why_not:
        verdicts |= {Run(name, planted=True): Verdict(f"not planted: {why_not}") for name in COMPILED}
    return summed_up(verdicts)


def child(library: Path, run: Run, without: Sequence[tuple[str, str]]) -> list[str]:
    """The command that a tool looks at."""
    looks_at_all = run.tool == "memcheck" or run.planted
    state = json.dumps({"without": [] if looks_at_all else sorted(without), "last": sorted(without), "first": 0})
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "child.py"), "sanitized", "--library", str(library)]
    return [*command, "--tool", run.tool, "--state", state, *(["--planted"] if run.planted else [])]


def arguments(tool: str, known: str) -> list[str]:
    """Of compute-sanitizer, before the program.

    Args:
        known: what it prints for ``--help``: names of options changed from version to version.
    """
    chosen = ["--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    if "--launch-timeout" in known:
        chosen += ["--launch-timeout", "120"]  # several processes import PyTorch at once
    if "--print-limit" in known:
        chosen += ["--print-limit", "20"]
    if tool == "memcheck":
        # PyTorch's calls that fail on purpose are no faults; a launch that fails raises in the
        # child.
        chosen += ["--report-api-errors", "no"]
    if tool != "initcheck":
        # initcheck has to see PyTorch's own kernels too: they write what ours read.
        chosen += ["--kernel-name" if "--kernel-name" in known else "--kernel-regex", "kns=lccl"]
    return chosen


def compile_planted(scratch: Path) -> tuple[Path | None, str]:
    """The program of planted.cu, or why there is none."""
    nvcc = nvcc_path()
    if nvcc is None:
        return None, "there is no nvcc"
    program = scratch / "planted"
    command = [nvcc, "-arch=native", "-lineinfo", "-o", str(program), str(ROOT / "bench" / "gpu" / "planted.cu")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return None, "nvcc took too long"
    if done.returncode == 0:
        return program, ""
    return None, f"nvcc failed: {' '.join(last_lines(done.stderr, 1))}"


def errors_in(log: str) -> int | None:
    """Errors that the log's last summary counts.

    None if the tool came to none, so that it did not run.
    """
    found = re.findall(r"SUMMARY: (?:\d+ hazards? displayed \()?(\d+) errors?", log)
    return int(found[-1]) if found else None


def judge(run: Run, done: Done) -> Verdict:
    """What a run found, by its log."""
    log = done.output
    if run.planted and SEEN[run.tool] in log:
        return Verdict(RIGHT)
    if done.code is None:
        # Killed before its summary: what it has told by then is as true.
        at = log.find(SEEN[run.tool])
        lines = log[max(0, log.rfind("\n", 0, at)) :].strip().splitlines()[:30] if at >= 0 else []
        found = (f"{run.label} was ended before its time was up for all, and reports", *(f"{run.tool}: {x}" for x in lines))
        return Verdict("wrong", found) if lines and not run.planted else Verdict(LATE)
    errors = errors_in(log)
    refused = re.search(r"(?i)[^\n]*device not supported[^\n]*", log)
    if refused or errors is None:
        own = [line for line in log.splitlines() if "Error: " in line]
        reason = refused.group() if refused else (own or last_lines(log, 1) or ["its log is empty"])[0]
        return Verdict(f"did not run: {reason.strip(' =')}")
    if not run.planted and errors == 0 and done.code == 0:
        return Verdict(RIGHT)
    said = f"{run.label} did not see it" if run.planted else f"{run.label} reports {errors} errors"
    lines = (f"{run.tool}: {line}" for line in last_lines(log, 30))
    return Verdict("wrong", (f"{said}, exit code {done.code}", *lines))


def summed_up(verdicts: dict[Run, Verdict]) -> dict[str, Any]:
    """The part's result.

    It failed where a run found something, and is partial where one did not come to an end.
    """
    faults: Sequence[str] = [line for verdict in verdicts.values() for line in verdict.faults]
    states = {run.label: verdict.state for run, verdict in verdicts.items()}
    status = "failed" if faults else "passed" if all(verdicts.values()) else "partial"
    return outcome(status, ", ".join(f"{label} {state}" for label, state in states.items()), faults, tools=states)
