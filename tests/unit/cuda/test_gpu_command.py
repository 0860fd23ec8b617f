"""The GPU check's command: its processes, its parts' results, its report, and how it reads compute-sanitizer's logs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT

sys.path[:0] = [str(ROOT / folder) for folder in ("bench", "scripts")]

import gpu_check  # noqa: E402
import gpu_process  # noqa: E402
import gpu_sanitizer  # noqa: E402
from gpu_process import Done  # noqa: E402
from gpu_sanitizer import Run  # noqa: E402

from lccl.cuda.library import Library  # noqa: E402


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import subprocess, sys; subprocess.Popen(['sh', '-c', 'sleep 3; touch {mark}']); print('begun', flush=True); input()"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", f"import time\n{code.replace('input()', 'time.sleep(60)')}"]
    began = time.monotonic()
    done = gpu_process.finish(gpu_process.start(command, log), log, began + 1.5)
    assert done.code is None
    assert "begun" in done.output
    assert time.monotonic() - began < 10
    time.sleep(2.5)
    assert not mark.exists()


class Scripted(gpu_check.Check):
    """Parts that end as they are told."""

    def __init__(self, out: Path, outcomes: dict[str, dict[str, Any]]) -> None:
        super().__init__(gpu_check.parser().parse_args(["--out", str(out)]), out)
        self.outcomes = outcomes
        self.given: dict[str, float] = {}

    def run(self, part: str, until: float) -> dict[str, Any]:
        self.given[part] = until - time.monotonic()
        return dict(self.outcomes[part])


def test_parts_share_the_time_and_the_report_is_written_after_each(tmp_path: Path) -> None:
    passed = gpu_process.outcome("passed", "fine")
    failed = gpu_process.outcome("failed", "not fine", ["a fault"])
    check = Scripted(tmp_path, {"sweep": passed, "masks": failed})
    report: dict[str, Any] = {"facts": {"gpu": "a GPU"}, "complete": False, "parts": {}}
    gpu_check.run_parts(check, ["sweep", "masks"], report, time.monotonic() + 100)
    assert check.given["sweep"] == pytest.approx(80, abs=1)
    assert check.given["masks"] == pytest.approx(100, abs=1)
    assert not report["complete"]
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| sweep | passed | 0 | fine |" in text
    assert "## masks: 1 faults" in text
    assert "Not complete" in text
    gpu_check.run_parts(check, ["sweep"], {**report, "parts": {}}, time.monotonic() + 100)
    assert "Not complete" not in (tmp_path / "gpu_check.md").read_text()


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    check = Scripted(tmp_path, {})
    report: dict[str, Any] = {"facts": {}, "complete": True, "parts": {}}
    gpu_check.run_parts(check, ["sweep"], report, time.monotonic() + 1)
    assert report["parts"]["sweep"]["status"] == "partial"
    assert not report["complete"]


def test_parts_by_name() -> None:
    assert gpu_check.parts_of("masks, sweep") == ["sweep", "masks"]
    assert gpu_check.parts_of("sweep,other") == []


def test_without_a_library_nothing_is_checked(tmp_path: Path) -> None:
    options = gpu_check.parser().parse_args(["--library", str(tmp_path / "none.so")])
    assert gpu_check.Check(options, tmp_path).run("sweep", time.monotonic() + 300)["status"] == "partial"
    assert gpu_check.Check(options, tmp_path).run("build", time.monotonic() + 300)["status"] == "skipped"


def test_a_part_whose_process_fails_is_a_failure(emulator_library: Library, tmp_path: Path) -> None:
    """Here by itself: without a GPU the part's process ends with an error."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, so the process would not fail")
    options = gpu_check.parser().parse_args(["--library", str(emulator_library.path)])
    outcome = gpu_check.Check(options, tmp_path).run("sweep", time.monotonic() + 300)
    assert outcome["status"] == "failed"
    assert "exit code 1" in outcome["words"]
    assert outcome["faults"]


# ---- build --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tools", "generator"), [({"make", "ninja"}, []), ({"ninja"}, ["-G", "Ninja"]), (set(), [])])
def test_ninja_is_taken_where_there_is_no_make(tools: set[str], generator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name in tools else None)
    settings = gpu_check.build_settings("90", "/a/nvcc")
    assert settings[: len(generator)] == generator
    assert settings[len(generator)] == "-DCMAKE_CUDA_ARCHITECTURES=90"
    assert "-DLCCL_WARNINGS_ARE_ERRORS=OFF" in settings


# ---- the benchmark in the check -----------------------------------------------------------------------------------------


def bench_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, found: dict[str, Any] | None
) -> dict[str, Any]:
    """The part's result where the benchmark left this JSON, no Markdown and this exit code."""
    check = gpu_check.Check(gpu_check.parser().parse_args([]), tmp_path)
    if found is not None:
        (tmp_path / "bench.json").write_text(json.dumps(found))
    monkeypatch.setattr(gpu_check, "start", lambda command, log: None)
    monkeypatch.setattr(gpu_check, "finish", lambda process, log, until: Done(code, "a line"))
    outcome = check._bench(time.monotonic() + 30)
    assert (check.bench, check.bench_table) == (found or {}, "")
    return outcome


@pytest.mark.parametrize(
    ("code", "found", "status"),
    [
        (0, {"rows": [1], "complete": True}, "passed"),
        (0, {"rows": [1], "complete": False}, "partial"),
        (None, {"rows": [1], "complete": False}, "partial"),
        (None, {"rows": [], "complete": False}, "failed"),
        (None, None, "failed"),
        (2, {"rows": [1], "complete": True}, "failed"),
        (1, None, "failed"),
    ],
)
def test_what_the_benchmark_left_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, found: dict[str, Any] | None, status: str
) -> None:
    assert bench_part(tmp_path, monkeypatch, code, found)["status"] == status


# ---- compute-sanitizer --------------------------------------------------------------------------------------------------

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

    def says(self, changes: dict[tuple[str, bool], tuple[str, int]], option: str = "--kernel-name") -> dict[str, Any]:
        """The part's result with these logs."""
        program = self.folder / "compute-sanitizer"
        calls = str(self.folder / "calls")
        program.write_text(FAKE.format(python=sys.executable, option=option, calls=calls, logs=SEEN | changes))
        program.chmod(0o755)
        return gpu_sanitizer.sanitize(Path("check.py"), Path("library.so"), self.folder, time.monotonic() + 60)

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


def test_without_a_compiler_two_faults_are_not_planted(sanitizer: Sanitizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sanitizer, "compile_planted", lambda scratch: (None, "there is no nvcc"))
    outcome = sanitizer.says({})
    assert outcome["status"] == "partial"
    assert outcome["tools"]["racecheck of a planted fault"] == "not planted: there is no nvcc"


def test_the_planted_faults_compile(tmp_path: Path) -> None:
    if gpu_process.nvcc_path() is None:
        pytest.skip("no nvcc")
    program, why = gpu_sanitizer.compile_planted(tmp_path)
    assert why == ""
    assert program is not None
    assert program.is_file()
