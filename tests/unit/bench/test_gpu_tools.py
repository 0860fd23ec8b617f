"""How the GPU check reads the logs of compute-sanitizer and Nsight Compute.

Small programs stand for both.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import build as gpu_build
from bench.gpu import profile as gpu_profile
from bench.gpu import sanitizer as gpu_sanitizer
from bench.gpu.process import Done
from bench.gpu.results import Results, of_kind
from bench.gpu.sanitizer import Run

FAKE = """#!{python}
import os, sys
arguments = sys.argv[1:]
if arguments == ["--help"]:
    print("  --report-api-errors arg\\n  {option} arg\\n  --launch-timeout arg")
    raise SystemExit
tool = arguments[arguments.index("--tool") + 1]
planted = "--planted" in arguments or arguments[-2].endswith("/planted")
with open({calls!r}, "a") as calls:
    print(*arguments, file=calls)
said, code = {logs!r}.get((tool, planted), ("========= ERROR SUMMARY: 0 errors", 0))
print("========= COMPUTE-SANITIZER\\n" + said)
raise SystemExit(code)
"""
SEEN = {
    ("memcheck", True): ("========= Invalid __global__ write of size 16 bytes\n========= ERROR SUMMARY: 3 errors", 9),
    ("initcheck", True): (
        "========= Uninitialized __global__ memory read of size 2 bytes\n========= ERROR SUMMARY: 1 error",
        9,
    ),
    ("racecheck", True): (
        "========= Error: Race reported between Write access at lcclMissingBarrier\n"
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
        9,
    ),
    ("synccheck", True): (
        "========= Barrier error detected. Divergent thread(s) in block.\n========= ERROR SUMMARY: 16 errors",
        9,
    ),
    ("racecheck", False): ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0),
}
"""What the tools say where all is well: (tool, planted) -> log and exit code."""


TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck")


class Sanitizer:
    """A program that stands for compute-sanitizer."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(gpu_sanitizer, "compile_planted", lambda scratch: (scratch / "planted", ""))

    def says(
        self, changes: dict[tuple[str, bool], tuple[str, int]], option: str = "--kernel-name", planted: bool = True
    ) -> dict[str, Any]:
        """The part's result with these logs."""
        program = self.folder / "compute-sanitizer"
        calls = str(self.folder / "calls")
        program.write_text(FAKE.format(python=sys.executable, option=option, calls=calls, logs=SEEN | changes))
        program.chmod(0o755)
        results = Results(self.folder / "out")
        return gpu_sanitizer.sanitize(
            Path("library.so"), results, time.monotonic() + 60, planted=planted, without=[("a", "float16")]
        )

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sanitizer:
    return Sanitizer(tmp_path, monkeypatch)


@pytest.mark.parametrize("option", ["--kernel-name", "--kernel-regex"])
def test_clean_logs_and_seen_faults_pass(sanitizer: Sanitizer, option: str) -> None:
    outcome = sanitizer.says({}, option)
    assert outcome["status"] == "passed", outcome
    assert set(outcome["tools"].values()) == {"as it should be"}
    calls = sanitizer.calls()
    assert len(calls) == 8
    for call in calls:
        assert (f"{option} kns=lccl" in call) == ("--tool initcheck" not in call)
        assert ("--report-api-errors no" in call) == ("--tool memcheck" in call)


def test_nothing_is_planted_unless_asked_for(sanitizer: Sanitizer) -> None:
    outcome = sanitizer.says({}, planted=False)
    assert outcome["status"] == "passed", outcome
    assert set(outcome["tools"]) == set(TOOLS)
    assert len(sanitizer.calls()) == 4
    assert all('[["a", "float16"]]' in call for call in sanitizer.calls()), "what is left out is left out here, too"
    log = (sanitizer.folder / "out" / "sanitizer.log").read_text()
    assert all(f"{tool}: =" in log for tool in TOOLS)
    told = of_kind(Results(sanitizer.folder / "out").records(), "sanitizer")
    assert {record["tool"] for record in told} == set(TOOLS)


@pytest.mark.slow
def test_a_planted_fault_is_seen_whatever_the_exit_code(sanitizer: Sanitizer) -> None:
    for code in (0, 1, 255):
        assert sanitizer.says({("memcheck", True): (SEEN[("memcheck", True)][0], code)})["status"] == "passed"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_planted_fault_that_is_not_seen_is_a_failure(sanitizer: Sanitizer, tool: str) -> None:
    outcome = sanitizer.says({(tool, True): ("========= ERROR SUMMARY: 0 errors", 0)})
    assert outcome["status"] == "failed"
    assert f"{tool} of a planted fault did not see it, exit code 0" in outcome["faults"]


@pytest.mark.parametrize("tool", TOOLS)
def test_errors_are_faults(sanitizer: Sanitizer, tool: str) -> None:
    outcome = sanitizer.says({(tool, False): SEEN[(tool, True)]})
    assert outcome["status"] == "failed"
    assert outcome["tools"][tool] == "wrong"
    assert f"{tool}: {SEEN[(tool, True)][0].splitlines()[0]}" in outcome["faults"]


def test_a_child_that_fails_under_a_clean_tool_is_a_failure(sanitizer: Sanitizer) -> None:
    outcome = sanitizer.says({("synccheck", False): ("a result is wrong\n========= ERROR SUMMARY: 0 errors", 3)})
    assert outcome["status"] == "failed"
    assert "synccheck reports 0 errors, exit code 3" in outcome["faults"]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "========= Error: Device not supported. See the manual\n========= ERROR SUMMARY: 0 errors",
            "Error: Device not supported.",
        ),
        ("========= Error: Target application terminated before first instrumented API call", "Error: Target application"),
        ("a last word", "a last word"),
    ],
)
def test_a_tool_that_cannot_run_is_no_failure(sanitizer: Sanitizer, log: str, words: str) -> None:
    outcome = sanitizer.says({(tool, planted): (log, 1) for tool in TOOLS for planted in (False, True)})
    assert outcome["status"] == "partial"
    assert not outcome["faults"]
    assert f"memcheck did not run: {words}" in outcome["words"]


def test_a_tool_that_is_late_is_no_failure() -> None:
    assert gpu_sanitizer.judge(Run("memcheck"), Done(None, "========= COMPUTE-SANITIZER")).state == "not in time"
    assert gpu_sanitizer.judge(Run("memcheck", planted=True), Done(None, SEEN[("memcheck", True)][0]))


@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_late_tool_has_told_is_not_lost(tool: str) -> None:
    """It is killed before its summary, with a fault in its log."""
    told = f"========= COMPUTE-SANITIZER\n{SEEN[tool, True][0].splitlines()[0]}\n=========     at lccl::entry"
    verdict = gpu_sanitizer.judge(Run(tool), Done(None, told))
    assert not verdict
    assert verdict.state == "wrong"
    assert any("at lccl::entry" in fault for fault in verdict.faults), verdict
    assert gpu_sanitizer.judge(Run(tool, planted=True), Done(None, "========= COMPUTE-SANITIZER")).state == "not in time"


def test_without_a_compiler_two_faults_are_not_planted(sanitizer: Sanitizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sanitizer, "compile_planted", lambda scratch: (None, "there is no nvcc"))
    outcome = sanitizer.says({})
    assert outcome["status"] == "partial"
    assert outcome["tools"]["racecheck of a planted fault"] == "not planted: there is no nvcc"


@pytest.mark.slow
def test_the_planted_faults_compile(tmp_path: Path) -> None:
    if gpu_build.nvcc_path() is None:
        pytest.skip("no nvcc")
    program, why = gpu_sanitizer.compile_planted(tmp_path)
    assert why == ""
    assert program is not None
    assert program.is_file()


# ---- Nsight Compute ------------------------------------------------------------------------------

DETAILS = """==PROF== Connected to process 1
  void lccl::{name}<lccl::Tile>(lccl::Arguments) (132, 1, 1)x(256, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    ----------------------- ----------- ------------
    Elapsed Cycles                cycle       12,345
    Duration                         us        7.58
    Compute (SM) Throughput           %        41.20
    DRAM Throughput                   %        63.00
    ----------------------- ----------- ------------
    Registers Per Thread             register/thread             168
"""


def profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, code: int) -> tuple[dict[str, Any], Results]:
    program = tmp_path / "ncu"
    (tmp_path / "log").write_text(log)
    program.write_text(f"#!/bin/sh\necho $* > {tmp_path}/calls\ncat {tmp_path}/log\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    results = Results(tmp_path / "out")
    return gpu_profile.profile(Path("library.so"), results, time.monotonic() + 30), results


def test_three_kernels_are_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "".join(DETAILS.format(name=name) for name in ("gate", "main", "main"))
    done, results = profiled(tmp_path, monkeypatch, log, 0)
    assert done["status"] == "passed", done
    kernels = of_kind(results.records(), "profile")
    assert len(kernels) == 3
    figures = {"cycles": "12,345 cycle", "duration": "7.58 us", "sm_percent": "41.20 %", "dram_percent": "63.00 %"}
    assert kernels[0].items() >= {"kernel": "void lccl::gate<lccl::Tile>(lccl::Arguments)", **figures}.items()
    assert kernels[0]["registers"] == "168 register/thread"
    assert "--clock-control none" in (tmp_path / "calls").read_text()
    assert "Duration" in (tmp_path / "out" / "profile.log").read_text()


def test_why_ncu_cannot_run_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission to access GPU counters\n==ERROR== more\n"
    done, _ = profiled(tmp_path, monkeypatch, log, 1)
    assert (done["status"], done["faults"]) == ("partial", [])
    assert "ncu could not profile: ERR_NVGPUCTRPERM - no permission to access GPU counters" in done["words"]
    monkeypatch.setattr(gpu_profile, "ncu_path", lambda: None)
    assert gpu_profile.profile(Path("a"), Results(tmp_path / "b"), time.monotonic())["status"] == "partial"
