"""The GPU check's command without a GPU.

On a fake device, of which some configurations crash, hang or are wrong; with builds that fail and
runs that are interrupted. What was learnt stays readable.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import build as gpu_build
from bench.gpu import check as gpu_check
from bench.gpu import process as gpu_process
from bench.gpu import results as gpu_results
from bench.gpu import smoke as gpu_smoke
from bench.gpu import verdict as gpu_verdict
from bench.gpu.process import Process
from bench.gpu.results import Results, of_kind, outcome
from bench.gpu.supervisor import Limits, State, Supervised
from conftest import ROOT

DENSE, BLOCK, PIXEL = "dense-mma-64x64-s4-w2x2", "block-mma-64x64-s4-w2x2", "pixel-mma-64x64-s4-w2x2"
OTHER, PLAIN = "pixel-mma-128x64-s3-w2x2", "pixel-simt-64x64"


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory, emulator_library_path: Path) -> Path:
    """The emulated machine behind configurations that go wrong as the environment says."""
    path = tmp_path_factory.mktemp("fake") / "libfake.so"
    include = [f"-I{ROOT / folder}" for folder in ("trt_plugin/kernel", "tests/emulator/include")]
    source = str(Path(__file__).parent / "fake_device.cpp")
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *include, source, "-o", str(path)]
    subprocess.run([*command, "-ldl"], check=True)
    return path


@dataclass(frozen=True)
class Ran:
    """What a run of the command left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        return gpu_results.last_run(gpu_results.read(self.folder / "results.jsonl"))

    @property
    def verdict(self) -> str:
        return (self.folder / "verdict.txt").read_text()

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return of_kind(self.records, kind)

    @property
    def steps(self) -> dict[str, str]:
        return {record["step"]: record["status"] for record in self.kind("step")}

    @property
    def smoke(self) -> dict[tuple[str, str], str]:
        return gpu_smoke.verdicts(self.records)


class Runner:
    """Runs the command on the fake device."""

    def __init__(self, folder: Path, library: Path, emulator: Path) -> None:
        self.folder = folder
        self.library = library
        self.environment = {"LCCL_FAKE_LIBRARY": str(emulator)}

    def command(self, *arguments: str) -> list[str]:
        """Without a library."""
        command = [sys.executable, str(ROOT / "bench" / "gpu" / "check.py"), "--place", "cpu", "--item-seconds", "1.5"]
        return [*command, "--build-folder", str(self.folder / "library"), "--out", str(self.folder / "out"), *arguments]

    def __call__(self, *arguments: str, **faults: str) -> Ran:
        """With the fake library at once; faults: ONLY, CRASH, HANG, WRONG, ERROR."""
        return self.run(self.command("--no-build", "--library", str(self.library), *arguments), **faults)

    def run(self, command: list[str], **faults: str) -> Ran:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.variables(**faults), timeout=300)
        return Ran(done.returncode, done.stdout, done.stderr, self.folder / "out")

    def variables(self, **faults: str) -> dict[str, str]:
        return {**os.environ, **self.environment, **{f"LCCL_FAKE_{name}": value for name, value in faults.items()}}


@pytest.fixture
def check(tmp_path: Path, fake_library: Path, emulator_library_path: Path) -> Runner:
    return Runner(tmp_path, fake_library, emulator_library_path)


# ---- a device that goes wrong --------------------------------------------------------------------


def test_each_failure_costs_its_configuration_alone(check: Runner) -> None:
    """A crash, a hang, a wrong result and a CUDA error; then the later steps run without them."""
    block = "block-simt-64x64"
    ran = check(
        "--part", "A", "--only", "smoke,ceilings,masks,bench",
        ONLY=f"{DENSE},{BLOCK},{PIXEL},{OTHER},{PLAIN},{block}", CRASH=BLOCK, HANG=OTHER, WRONG=PLAIN, ERROR=block,
    )  # fmt: skip
    assert ran.code == gpu_verdict.FAILED, ran.err
    half = ("float16", "bfloat16")
    expected = {(name, dtype): "right" for name in (DENSE, PIXEL) for dtype in half}
    expected |= {(BLOCK, dtype): "crash" for dtype in half} | {(OTHER, dtype): "hang" for dtype in half}
    expected |= {(PLAIN, "float32"): "wrong", (block, "float32"): "crash"}
    assert {key: what for key, what in ran.smoke.items() if what != "refused"} == expected
    assert ran.steps == {"smoke": "failed", "ceilings": "passed", "masks": "passed", "bench": "passed"}
    rows = ran.kind("row")
    assert {row["config"] for row in rows} <= {DENSE, PIXEL}
    assert {row["density"] for row in rows} == {0.25, 0.5}
    assert sum(row["chosen"] for row in rows) == 4, "one in each setting, though the library would choose another"
    names = {record["name"] for record in ran.kind("ceiling")}
    assert {"copy", "fill", "launch gap", "cuBLAS float16"} < names
    parts = next(record["us"] for record in ran.kind("ceiling") if record["name"].startswith("kernels 12@8"))
    assert set(parts) == {"all", "pack", "gate", "main", "closed"}
    words = " ".join(fault["words"] for fault in ran.kind("fault"))
    assert "ended by SIGSEGV" in words
    assert "no answer within 1.5 s" in words
    assert "a kernel failed" in words
    for said in (f"{BLOCK} crash", f"{OTHER} hang", f"{PLAIN} wrong", "4 right, 1 wrong, 2 hang, 3 crash"):
        assert said in ran.verdict, said
    assert ran.out == ran.verdict
    assert len(ran.out.splitlines()) <= 20
    assert len(ran.out) + len(ran.err) < 12_000
    report = (ran.folder / "report.md").read_text()
    assert f"| {OTHER} | hang | hang | refused |" in report
    assert "| kernels 16@8 b1 G=1 |" in report
    files = sorted(path.name for path in ran.folder.iterdir())
    assert set(files) <= {"results.jsonl", "report.md", "verdict.txt", *gpu_results.LOGS}
    assert len(files) <= 8


def test_a_call_that_fails_later_is_found_and_left_out(check: Runner) -> None:
    """A sweep that meets a crash, its first calls skipped, goes on without that configuration."""
    ran = check("--only", "sweep", ONLY=f"{DENSE},{OTHER},{PIXEL}", CRASH=f"{OTHER},{DENSE}")
    assert ran.code == gpu_verdict.FAILED
    (step,) = ran.kind("step")
    assert any(fault.startswith(f"{OTHER} ") and "SIGSEGV" in fault for fault in step["faults"]), step
    assert {item["verdict"] for item in ran.kind("item")} == {"crash"}
    assert "more processes" in step["words"]
    assert "25 forms" in step["words"], "it came to its end"


def test_all_right_passes_and_the_next_run_knows_the_first_calls(check: Runner) -> None:
    first = check("--only", "smoke", ONLY=f"{DENSE},{PIXEL},{PLAIN}")
    assert first.code == gpu_verdict.PASSED, first.out
    assert "verdict: all passed" in first.out
    assert first.out.splitlines()[-1].startswith("next: ")
    again = check("--only", "smoke", ONLY=f"{DENSE},{PIXEL},{PLAIN}")
    assert again.steps == {"smoke": "skipped"}
    assert again.smoke == first.smoke
    assert "of an earlier run" in again.verdict
    shutil.rmtree(check.folder / "out")
    assert check("--only", "smoke", ONLY=f"{DENSE}").steps == {"smoke": "skipped"}, "kept beside the build, too"
    other = check.folder / "other.so"
    other.write_bytes(check.library.read_bytes() + b"\0")
    changed = check.run(check.command("--no-build", "--library", str(other), "--only", "smoke"), ONLY=f"{DENSE}")
    assert changed.steps == {"smoke": "passed"}, "of another library nothing is known"


def test_steps_that_checked_nothing_do_not_pass(check: Runner) -> None:
    """The only configuration is wrong, and left out by what comes after."""
    ran = check("--part", "B", "--only", "smoke,ceilings,sweep,masks,bench", ONLY=DENSE, WRONG=DENSE)
    assert ran.steps["smoke"] == "failed"
    others = {step: status for step, status in ran.steps.items() if step != "smoke"}
    assert others == dict.fromkeys(("ceilings", "sweep", "masks", "bench"), "partial"), ran.out


def test_what_was_bad_is_tried_again_and_stays_bad(check: Runner) -> None:
    """Part A says anew what is bad, also of a library that it knows.

    Nothing becomes right by not being run.
    """
    only = f"{DENSE},{PIXEL}"
    for _ in range(2):
        ran = check("--part", "A", "--only", "smoke,sweep", ONLY=only, HANG=PIXEL)
        assert ran.code == gpu_verdict.FAILED, ran.out
        assert ran.smoke[PIXEL, "float16"] == "hang"
        assert all(item["config"] != PIXEL for item in ran.kind("item") if item["step"] == "sweep")
    part_b = check("--part", "B", "--only", "smoke", ONLY=only, HANG=PIXEL)
    assert part_b.smoke[PIXEL, "float16"] == "hang"
    assert part_b.code == gpu_verdict.FAILED
    mended = check("--part", "A", "--only", "smoke", ONLY=only)
    assert mended.smoke[PIXEL, "float16"] == "right"
    assert mended.code == gpu_verdict.PASSED


def test_a_step_that_needs_a_gpu_says_so(check: Runner) -> None:
    ran = check("--only", "graph,sanitizer")
    assert ran.steps == {"graph": "skipped", "sanitizer": "skipped"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_an_interrupted_run_leaves_what_it_has(check: Runner, sent: signal.Signals) -> None:
    """Interrupted while a configuration hangs, after others were right."""
    command = check.command("--no-build", "--library", str(check.library), "--only", "smoke,sweep", "--item-seconds", "60")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=check.variables(ONLY=f"{DENSE},{OTHER}", HANG=OTHER)
    )
    results = check.folder / "out" / "results.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (results.is_file() and "right" in results.read_text()):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(sent)
    out, _ = process.communicate(timeout=30)
    ran = Ran(process.returncode, out.decode(), "", check.folder / "out")
    assert ran.smoke[DENSE, "float16"] == "right"
    assert "device: none: a rehearsal" in ran.verdict
    assert (ran.folder / "report.md").is_file()
    if sent == signal.SIGKILL:
        gpu_verdict.main([str(results)])
        assert "smoke: 1 right" in ran.verdict
        return
    assert ran.code == gpu_verdict.INCOMPLETE
    assert f"interrupted: by {sent.name}" in ran.out
    assert "smoke: 1 right" in ran.out
    assert "not run: smoke, sweep" in ran.out


def test_a_run_without_time_says_what_is_missing(check: Runner) -> None:
    ran = check("--only", "smoke,masks", "--minutes", "0.05", ONLY=DENSE)
    assert ran.code == gpu_verdict.INCOMPLETE
    assert set(ran.steps.values()) == {"partial"}
    assert "next: nothing ran: the time was up; give more --minutes" in ran.verdict


# ---- the build -----------------------------------------------------------------------------------

CMAKE = """#!/bin/sh
echo "cmake $*"
case "$*" in
    *{fails}*) echo "a.cu(7): error: a mistake"; exit 1;;
    *{slow}*) sleep 60;;
    "--build $1"*|*"--target lccl_cuda"*) cp {library} {folder}/liblccl_cuda.so;;
    -S*) mkdir -p {folder};;
esac
"""


def with_tools(check: Runner, monkeypatch: pytest.MonkeyPatch, *, fails: str = "@", slow: str = "@") -> None:
    """Programs that stand for nvidia-smi, nvcc and cmake.

    Cmake's calls that have these texts in them fail, or take too long.
    """
    tools = check.folder / "tools"
    tools.mkdir()
    texts = {
        "cmake": CMAKE.format(fails=fails, slow=slow, library=check.library, folder=check.folder / "library"),
        "nvidia-smi": "#!/bin/sh\necho 9.0\n",
        "nvcc": "#!/bin/sh\n",
    }
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


def test_what_was_built_is_used_though_a_later_target_fails(check: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tools(check, monkeypatch, fails="lccl_trt_plugin")
    ran = check.run(check.command("--only", "build,smoke,plugin", "--library", str(check.library)), ONLY=DENSE)
    assert ran.steps == {"build": "passed", "smoke": "passed", "plugin": "skipped"}
    assert ran.kind("library")[0]["path"] == str(check.folder / "library" / "liblccl_cuda.so")
    targets = {record["target"]: record["status"] for record in ran.kind("build")}
    assert targets["lccl_cuda"] == "passed"
    assert targets["lccl_trt_plugin"] == "failed"
    assert "CMAKE_CUDA_ARCHITECTURES=90-real" in (ran.folder / "build.log").read_text()


def test_a_build_that_fails_falls_back(check: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tools(check, monkeypatch, fails="lccl_cuda")
    ran = check.run(check.command("--only", "build,smoke", "--library", str(check.library)), ONLY=DENSE)
    assert ran.code == gpu_verdict.FAILED
    assert ran.steps == {"build": "failed", "smoke": "passed"}
    assert ran.kind("library")[0]["path"] == str(check.library)
    assert "a.cu(7): error: a mistake" in ran.verdict


def test_a_build_that_fails_without_another_library_is_told(check: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tools(check, monkeypatch, fails="lccl_cuda")
    ran = check.run(check.command("--only", "build,smoke,bench"))
    assert ran.code == gpu_verdict.FAILED
    assert ran.steps == {"build": "failed", "smoke": "partial", "bench": "partial"}
    assert "next: nothing ran: mend the build (a.cu(7): error: a mistake), see build.log" in ran.out


def test_a_build_that_takes_too_long_falls_back(check: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tools(check, monkeypatch, slow="lccl_cuda")
    ran = check.run(check.command("--only", "build,smoke", "--minutes", "0.6", "--library", str(check.library)), ONLY=DENSE)
    assert ran.steps["build"] == "partial"
    assert ran.kind("library")[0]["path"] == str(check.library)
    assert ran.smoke[DENSE, "float16"] == "right"


@pytest.mark.parametrize(("tools", "generator"), [({"make", "ninja"}, []), ({"ninja"}, ["-G", "Ninja"]), (set(), [])])
def test_ninja_is_taken_where_there_is_no_make(tools: set[str], generator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name in tools else None)
    settings = gpu_build.build_settings("90", "/a/nvcc")
    assert settings[: len(generator)] == generator
    assert settings[len(generator)] == "-DCMAKE_CUDA_ARCHITECTURES=90-real"
    assert "-DLCCL_WARNINGS_ARE_ERRORS=OFF" in settings


def test_nvcc_is_looked_for_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(folder: str) -> str:
        path = tmp_path / folder / "bin" / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    for name in ("CUDACXX", "CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_build, "TOOLKIT", str(tmp_path / "usual"))
    assert gpu_build.nvcc_path() is None
    usual, home, named = place("usual"), place("home"), place("named")
    assert gpu_build.nvcc_path() == usual
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert gpu_build.nvcc_path() == home
    monkeypatch.setenv("CUDACXX", named)
    assert gpu_build.nvcc_path() == named


@pytest.mark.parametrize(("answer", "expected"), [("9.0", "90"), ("12.0\n", "120"), ("[N/A]", ""), ("", "")])
def test_the_compute_capability_by_nvidia_smi(
    answer: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{answer.strip()}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpu_build.compute_capability() == expected


# ---- processes -----------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import subprocess, time; subprocess.Popen(['sh', '-c', 'sleep 3; touch {mark}']); print('begun', flush=True); time.sleep(60)"
    began = time.monotonic()
    done = Process(python(code), tmp_path / "log").wait(began + 1.5)
    assert done.code is None
    assert "begun" in done.output
    assert "begun" in (tmp_path / "log").read_text()
    assert time.monotonic() - began < 10
    time.sleep(2.5)
    assert not mark.exists()


def test_a_process_that_cannot_be_killed_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(python("import time; time.sleep(8)"), tmp_path / "log")
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    monkeypatch.setattr(gpu_process, "GRACE_S", 0.3)
    began = time.monotonic()
    assert process.wait(began + 0.2).code is None
    assert time.monotonic() - began < 3
    assert not process.end()
    monkeypatch.undo()
    assert process.end()


def test_a_log_is_cut_off_where_it_grows_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_process, "LOG_BYTES", 10_000)
    done = Process(python("for i in range(5000): print('line', i)"), tmp_path / "log").wait(time.monotonic() + 30)
    assert (tmp_path / "log").stat().st_size < 11_000
    assert done.output.endswith("line 4999")


SAY = "import json, time, os, sys\ndef say(**m): print('@lccl ' + json.dumps(m), flush=True)\n"


def supervised(tmp_path: Path, code: str, item: float = 1.0, idle: float = 20.0, seconds: float = 30) -> tuple[Any, ...]:
    """The outcome of a step whose process runs this code, its records, its state."""
    results = Results(tmp_path / "out")

    def command(state: State) -> list[str]:
        return [*python(f"{SAY}state = json.loads(sys.argv[1])\n{code}"), json.dumps(state.as_dict())]

    step = Supervised("sweep", command, results, State(), Limits(item, idle))
    return step.run(time.monotonic() + seconds), results.records(), step.state


@pytest.mark.slow
def test_a_hang_is_found_by_its_begin_and_a_slow_start_is_none(tmp_path: Path) -> None:
    code = """
time.sleep(1.5)
if not state["without"]:
    say(event="begin", config="a", dtype="float16", form="f", resume=3)
    time.sleep(60)
say(event="done", result={"status": "passed", "words": f"from {state['first']}", "faults": []})
"""
    done, records, state = supervised(tmp_path, code)
    assert done["status"] == "failed"
    assert done["words"] == "from 3; 1 more processes"
    assert done["faults"] == ["a float16: hang: no answer within 1 s: f"]
    assert state.without == {("a", "float16")}
    assert of_kind(records, "item")[0]["verdict"] == "hang"


@pytest.mark.slow
def test_a_process_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    done, records, _ = supervised(tmp_path, "time.sleep(60)", idle=0.7)
    assert (done["status"], len(of_kind(records, "fault"))) == ("failed", 2)
    assert "hang between calls" in records[0]["words"]
    done, _, _ = supervised(tmp_path, "sys.exit('no module')")
    assert done["status"] == "failed"
    assert "exit code 1" in done["faults"][0]


@pytest.mark.slow
def test_a_step_whose_time_is_up_is_partial(tmp_path: Path) -> None:
    code = "say(event='fault', words='one')\nsay(event='begin', config='a', dtype='t', form='f', resume=0)\ntime.sleep(60)"
    began = time.monotonic()
    done, records, _ = supervised(tmp_path, code, item=50, seconds=1.5)
    assert time.monotonic() - began < 10
    assert done["faults"] == ["one"], "what it had told stays"
    assert of_kind(records, "fault")[0]["words"] == "one"


@pytest.mark.slow
def test_a_step_that_talks_on_is_ended_in_time(tmp_path: Path) -> None:
    code = "while True:\n    say(event='begin', config='a', dtype='t', form='f', resume=0)\n    say(event='end')\n    time.sleep(0.01)"
    began = time.monotonic()
    done, _, _ = supervised(tmp_path, code, seconds=1.5)
    assert time.monotonic() - began < 10
    assert done["status"] == "partial"


def test_a_process_that_goes_away_between_calls_goes_on_where_it_was(tmp_path: Path) -> None:
    code = """
if state["first"] == 0:
    say(event="begin", config="a", dtype="float16", form="f", resume=5)
    say(event="end")
    os._exit(3)
say(event="done", result={"status": "passed", "words": f"from {state['first']}", "faults": []})
"""
    done, _, state = supervised(tmp_path, code)
    assert (done["status"], state.without) == ("failed", set())
    assert done["words"] == "from 5; 1 more processes"


# ---- results and verdict -------------------------------------------------------------------------


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("run", steps=["sweep"])
    with results.path.open("a") as file:
        file.write('{"kind": "row", "us"')
    again = Results(tmp_path)
    again.add("fault", step="sweep", words="a word")
    assert [record["kind"] for record in gpu_results.read(results.path)] == ["run", "fault"]


def test_the_verdict_is_short_whatever_happened() -> None:
    records: list[dict[str, Any]] = [{"kind": "run", "steps": list(gpu_check.WEIGHTS)}]
    records += [{"kind": "library", "path": "a" * 500, "sha256": "0"}]
    records += [
        {"kind": "item", "step": "smoke", "config": f"c{i}", "dtype": d, "verdict": "crash", "words": "w", "form": "f"}
        for i in range(40)
        for d in ("float16", "bfloat16")
    ]
    records += [
        {"kind": "step", "step": step, **outcome("failed", "words " * 100, ["fault " * 500] * 50)} for step in gpu_check.WEIGHTS
    ]
    lines = gpu_verdict.verdict(records)
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 240
    assert lines[-1].startswith("next: no configuration is right")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["passed", "skipped"], gpu_verdict.PASSED),
        (["passed", "partial"], gpu_verdict.INCOMPLETE),
        (["passed"], gpu_verdict.INCOMPLETE),
        (["failed", "partial"], gpu_verdict.FAILED),
    ],
)
def test_exit_codes(statuses: Sequence[str], code: int) -> None:
    records: list[dict[str, Any]] = [{"kind": "run", "steps": ["sweep", "masks"]}]
    records += [{"kind": "step", "step": s, **outcome(w, "")} for s, w in zip(("sweep", "masks"), statuses, strict=False)]
    assert gpu_verdict.exit_code(records) == code
    loose = [*records, {"kind": "fault", "step": "bench", "words": "told before its process was killed"}]
    assert gpu_verdict.exit_code(loose) == gpu_verdict.FAILED


def test_steps_by_part_and_name() -> None:
    def steps(*arguments: str) -> list[str]:
        return gpu_check.steps_of(gpu_check.parser().parse_args(arguments))

    assert steps("--only", "masks, sweep") == ["sweep", "masks"]
    assert steps("--only", "sweep,other") == []
    assert steps("--part", "A") == ["build", "smoke", "ceilings", "bench"]
    assert steps()[-1] == "sanitizer"
    assert all(set(part) <= set(gpu_check.WEIGHTS) for part in gpu_check.PARTS.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--library {here}/none.so", "there is no kernel library at"),
        ("--library {here}/text.so", "the kernel library does not load"),
        ("--out {here}/text.so", "cannot be written"),
        ("--out {here}/text.so/below", "cannot be written"),
        ("--minutes 0", "argument --minutes: it takes minutes above 0, not"),
        ("--minutes nan", "argument --minutes: it takes minutes above 0, not"),
        ("--part A --planted", "--planted is of the step sanitizer"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, arguments: str, words: str) -> None:
    """At once: nothing is started, and nothing is written."""
    (tmp_path / "text.so").write_text("no library")
    given = arguments.format(here=tmp_path).split()
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "check.py"), "--place", "cpu", *out, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == gpu_verdict.REFUSED
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["text.so"]


def test_a_verdict_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"kind": "row"}\n')
    assert gpu_verdict.main([str(other)]) == gpu_verdict.REFUSED
    assert "is no results file of bench/gpu/check.py" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["other.jsonl"]


def test_a_call_that_was_running_when_the_machine_went_away_is_named() -> None:
    """The beginning of each first call is written before it runs."""
    call = {"step": "smoke", "config": PIXEL, "dtype": "float16", "form": "Form()"}
    records: list[dict[str, Any]] = [{"kind": "run", "steps": ["smoke"]}, {"kind": "begin", **call}]
    named = f"did not come back: smoke {PIXEL} float16 Form()"
    assert named in gpu_verdict.verdict(records)
    assert named in gpu_verdict.verdict([*records[:1], {"kind": "unfinished", **call}])
    ended = [*records, {"kind": "item", **call, "verdict": "right"}]
    assert not any("did not come back" in line for line in gpu_verdict.verdict(ended))


def test_a_refused_run_says_why() -> None:
    records: list[dict[str, Any]] = [{"kind": "run", "steps": ["smoke"]}, {"kind": "refused", "words": "no GPU here"}]
    assert gpu_verdict.verdict(records) == ["verdict: cannot run here", "no GPU here"]


def test_no_library_is_refused_where_nothing_is_built(invoke: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--no-build"]) == gpu_verdict.REFUSED
    assert capsys.readouterr().err == "error: --no-build needs --library PATH\n"
