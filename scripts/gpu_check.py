#!/usr/bin/env python3
"""Builds the CUDA kernels on a machine with a GPU and checks them there: one command, one JSON file, one Markdown table.

Each part runs in a process of its own, so that a kernel that hangs or breaks the GPU's context ends one part and not all.
Nothing is downloaded. Needs PyTorch with CUDA, nvcc and cmake.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
for _folder in ("bench", "scripts", "tests", "exporter"):
    sys.path.insert(0, str(ROOT / _folder))

WEIGHTS = {"build": 1.5, "sweep": 2.0, "masks": 0.5, "graph": 0.5, "streams": 0.5, "sanitizer": 1.5, "bench": 1.5}
"""Part -> its share of the time."""
FORMS = {"sweep": 3000, "masks": 300}
"""Part -> random forms that make it complete."""
SANITIZED = (
    ("memcheck", False),
    ("racecheck", False),
    ("initcheck", False),
    ("synccheck", False),
    ("memcheck", True),
    ("initcheck", True),
)
"""Tool of compute-sanitizer, and whether it is given a fault to see: a filter that hides our kernels would hide all faults."""
FOUND = 9
"""Exit code of compute-sanitizer that found something."""
START_S = 15
"""Seconds that a process takes to import PyTorch and make a CUDA context, at most."""
PASSED, REFUSED, FAILED, INCOMPLETE = 0, 1, 2, 3


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(REFUSED)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = _Parser(
        "gpu_check.py",
        description="Builds the CUDA kernels for this machine's GPU and checks them on it.",
        epilog="exit code: 0 all passed, 1 cannot run here, 2 something failed, 3 nothing failed but not all was done",
    )
    p.add_argument("--only", metavar="PARTS", default=",".join(WEIGHTS), help="with commas between (default: %(default)s)")
    p.add_argument("--minutes", type=float, default=8.0, help="for everything; parts stop in time (default: %(default)s)")
    p.add_argument("--library", type=Path, metavar="PATH", help="a library that is built already (then nothing is built)")
    p.add_argument(
        "--out", type=Path, default=ROOT / "build" / "gpu_check", metavar="FOLDER", help="for gpu_check.json and .md"
    )
    p.add_argument("--peak", type=float, metavar="TFLOPS", help="of the GPU, for the benchmark's per cent")
    p.add_argument("--part", help=argparse.SUPPRESS)
    p.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    p.add_argument("--sanitized-child", metavar="TOOL", help=argparse.SUPPRESS)
    p.add_argument("--planted", action="store_true", help=argparse.SUPPRESS)
    return p


# ---- processes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A process that ended, or was ended."""

    code: int | None
    """None: the time was up."""
    output: str
    """Its stdout and stderr."""


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a process with both outputs in a file, in a session of its own so that its children can be ended with it."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True, env={**os.environ, **environment}
        )


def finish(process: subprocess.Popen[bytes], log: Path, until: float) -> Done:
    """Waits until time.monotonic() is ``until``, then ends the process and its children."""
    try:
        code: int | None = process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Done(code, log.read_text(errors="replace"))


def last_lines(text: str, count: int = 12) -> list[str]:
    """The last lines that say something."""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def outcome(status: str, words: str, faults: Sequence[str] = (), **numbers: Any) -> dict[str, Any]:
    """A part's result as the report has it."""
    return {"status": status, "words": words, "faults": list(faults), "fault_count": len(faults), **numbers}


# ---- parts --------------------------------------------------------------------------------------------------------------


class Check:
    """The parts, in their order, and what they left behind."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.library: Path | None = options.library.resolve() if options.library else None
        self.bench: dict[str, Any] = {}
        self.bench_table = ""

    def run(self, part: str, until: float) -> dict[str, Any]:
        """One part, which ends before time.monotonic() is ``until``."""
        if part == "build":
            return self._build(until)
        if self.library is None or not self.library.is_file():
            return outcome("partial", "there is no library: the build failed or was not asked for; give one by --library")
        if part == "sanitizer":
            return self._sanitizer(until)
        return self._bench(until) if part == "bench" else self._child(part, until)

    def _build(self, until: float) -> dict[str, Any]:
        if self.library is not None:
            return outcome("skipped", f"--library names {self.library}")
        for tool in ("cmake", "nvcc"):
            if shutil.which(tool) is None:
                return outcome("failed", f"{tool} is not on the PATH", [f"{tool} is not on the PATH"])
        import torch

        cuda: Any = torch.cuda
        major, minor = cuda.get_device_capability(0)
        folder = ROOT / "build" / "gpu_check_library"
        settings = (f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}", "-DCMAKE_BUILD_TYPE=Release", "-DLCCL_EMULATOR=OFF")
        jobs = str(os.cpu_count() or 1)
        steps = (
            ["cmake", "-S", str(ROOT), "-B", str(folder), "-DLCCL_CUDA=ON", *settings],
            ["cmake", "--build", str(folder), "--target", "lccl_cuda", "--parallel", jobs],
        )
        for number, step in enumerate(steps):
            log = self.scratch / f"build{number}.log"
            done = finish(start(step, log), log, until)
            if done.code != 0:
                said = "the time was up" if done.code is None else f"exit code {done.code}"
                return outcome("failed", f"{' '.join(step[:2])}: {said}", last_lines(done.output))
        found = sorted(folder.rglob("liblccl_cuda.so"), key=lambda p: p.stat().st_mtime)
        if not found:
            return outcome("failed", "the build left no liblccl_cuda.so", last_lines(done.output))
        self.library = found[-1]
        return outcome("passed", f"{self.library.relative_to(ROOT)} for compute capability {major}.{minor}, {jobs} jobs")

    def _child(self, part: str, until: float) -> dict[str, Any]:
        log, out = self.scratch / f"{part}.log", self.scratch / f"{part}.json"
        seconds = max(1.0, until - time.monotonic() - START_S)
        command = [sys.executable, __file__, "--part", part, "--library", str(self.library), "--seconds", str(seconds)]
        done = finish(start([*command, "--out", str(out)], log), log, until)
        if done.code == 0 and out.is_file():
            return dict(json.loads(out.read_text()))
        said = "it did not end in time and was ended" if done.code is None else f"its process ended with exit code {done.code}"
        return outcome("failed", said, last_lines(done.output))

    def _sanitizer(self, until: float) -> dict[str, Any]:
        tool = sanitizer_path()
        if tool is None:
            return outcome("partial", "compute-sanitizer is neither on the PATH nor beside nvcc")
        running = {(name, planted): self._sanitize(tool, name, planted) for name, planted in SANITIZED}
        faults, states, late = [], {}, False
        for (name, planted), (process, log) in running.items():
            done = finish(process, log, until)
            label = f"{name} of a planted fault" if planted else name
            wanted = FOUND if planted else 0
            late |= done.code is None
            states[label] = "not in time" if done.code is None else "as it should be" if done.code == wanted else "wrong"
            if done.code not in (wanted, None):
                said = "did not see it" if planted else "reports"
                faults += [
                    f"{label} {said}, exit code {done.code}",
                    *(f"{name}: {line}" for line in last_lines(done.output, 30)),
                ]
        words = ", ".join(f"{name} {state}" for name, state in states.items())
        return outcome("failed" if faults else "partial" if late else "passed", words, faults, tools=states)

    def _sanitize(self, tool: str, name: str, planted: bool) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts one tool of compute-sanitizer on the small calls, or on a call with a fault that it has to see."""
        log = self.scratch / f"{name}{'-planted' if planted else ''}.log"
        # initcheck has to see PyTorch's own kernels too: they write what ours read.
        scope = ["--kernel-regex", "kns=lccl"] if name != "initcheck" else []
        child = [sys.executable, __file__, "--sanitized-child", name, "--library", str(self.library)]
        command = [tool, "--tool", name, "--error-exitcode", str(FOUND), *scope, *child, *(["--planted"] if planted else [])]
        # Without PyTorch's own cache every tensor is an allocation whose bounds the tool knows.
        return start(command, log, PYTORCH_NO_CUDA_MEMORY_CACHING="1"), log

    def _bench(self, until: float) -> dict[str, Any]:
        log, out, table = (self.scratch / f"bench.{end}" for end in ("log", "json", "md"))
        minutes = max(5.0, until - time.monotonic() - START_S) / 60
        command = [sys.executable, str(ROOT / "bench" / "gpu_layers.py"), "--quick", "--library", str(self.library)]
        command += ["--minutes", f"{minutes:.2f}", "--json", str(out), "--markdown", str(table)]
        command += ["--peak", str(self.options.peak)] if self.options.peak else []
        done = finish(start(command, log), log, until)
        if out.is_file():
            self.bench = json.loads(out.read_text())
            self.bench_table = table.read_text()
        if done.code == 0:
            words = f"{len(self.bench['rows'])} rows"
            return outcome("passed" if self.bench["complete"] else "partial", words)
        said = "it did not end in time and was ended" if done.code is None else f"exit code {done.code}"
        return outcome("failed", said, last_lines(done.output))


def sanitizer_path() -> str | None:
    """compute-sanitizer, on the PATH or where the toolkit of nvcc has it."""
    found = shutil.which("compute-sanitizer")
    nvcc = shutil.which("nvcc")
    if found or nvcc is None:
        return found
    toolkit = Path(nvcc).resolve().parent.parent
    beside = (toolkit / "bin" / "compute-sanitizer", toolkit / "compute-sanitizer" / "compute-sanitizer")
    return next((str(path) for path in beside if path.is_file()), None)


def child(options: argparse.Namespace) -> int:
    """One part in this process."""
    import torch
    from gpu_forms import Bench
    from gpu_parts import graph, masks, planted_fault, sanitized, streams, sweep

    from lccl.cuda.library import load
    from lccl.cuda.torch_backend import device_of

    place = torch.device("cuda", 0)
    bench = Bench(load(options.library), device_of(place), place)
    if options.planted:
        return planted_fault(bench, options.sanitized_child)
    if options.sanitized_child:
        return sanitized(bench, poison=options.sanitized_child != "initcheck")
    deadline = time.monotonic() + options.seconds
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "sweep": lambda: sweep(bench, deadline, FORMS["sweep"]),
        "masks": lambda: masks(bench, deadline, FORMS["masks"]),
        "graph": lambda: graph(bench, deadline),
        "streams": lambda: streams(bench, deadline),
    }
    options.out.write_text(json.dumps(parts[options.part]()))
    return 0


# ---- report -------------------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any], bench_table: str) -> str:
    """The report as people read it."""
    lines = ["# The CUDA kernels on a GPU", "", *(f"* {name}: {value}" for name, value in report["facts"].items()), ""]
    if not report["complete"]:
        lines += ["**Not complete: see the parts that are not passed.**", ""]
    lines += ["| part | result | seconds | |", "|---|---|---|---|"]
    for name, part in report["parts"].items():
        lines.append(f"| {name} | {part['status']} | {part['seconds']:.0f} | {part['words']} |")
    for name, part in report["parts"].items():
        if part["faults"]:
            lines += ["", f"## {name}: {part['fault_count']} faults", "", "```text", *part["faults"], "```"]
    return "\n".join(lines) + "\n" + (f"\n{bench_table}" if bench_table else "")


def write(out: Path, report: dict[str, Any], check: Check) -> None:
    """Both files, after each part, so that what there is survives whatever comes."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_check.json").write_text(json.dumps({**report, "bench": check.bench}, indent=1))
    (out / "gpu_check.md").write_text(markdown(report, check.bench_table))


def parts_of(text: str) -> list[str]:
    """The parts that are asked for, in the order in which they run; empty where one is unknown."""
    asked = [part.strip() for part in text.split(",") if part.strip()]
    return [] if set(asked) - set(WEIGHTS) else [part for part in WEIGHTS if part in asked]


def run_parts(check: Check, parts: Sequence[str], report: dict[str, Any], end: float) -> None:
    """Runs the parts; what one leaves of its time goes to those after it."""
    for number, part in enumerate(parts):
        began = time.monotonic()
        share = WEIGHTS[part] / sum(WEIGHTS[p] for p in parts[number:])
        print(f"{part} ...", file=sys.stderr, flush=True)
        if end - began > START_S:
            done = check.run(part, began + share * (end - began))
        else:
            done = outcome("partial", "the time was up before it began")
        done["seconds"] = time.monotonic() - began
        report["parts"][part] = done
        report["complete"] = set(parts) == set(report["parts"]) and all(
            p["status"] in ("passed", "skipped") for p in report["parts"].values()
        )
        print(f"{part}: {done['status']}: {done['words']}", file=sys.stderr, flush=True)
        write(check.options.out, report, check)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code; see the parser's last line."""
    options = parser().parse_args(arguments)
    if options.part or options.sanitized_child:
        return child(options)
    began = time.monotonic()
    parts = parts_of(options.only)
    if not parts:
        print(f"error: --only takes parts of {','.join(WEIGHTS)}, not {options.only!r}", file=sys.stderr)
        return REFUSED
    from gpu_layers import gpu_refusal

    refusal = gpu_refusal()
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return REFUSED
    from gpu_common import gpu_facts

    command = ("scripts/gpu_check.py", *(sys.argv[1:] if arguments is None else arguments))
    report: dict[str, Any] = {"facts": gpu_facts(command), "complete": False, "parts": {}}
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(options, Path(scratch))
        run_parts(check, parts, report, began + 60 * options.minutes)
    print((options.out / "gpu_check.md").read_text())
    states = {part["status"] for part in report["parts"].values()}
    if "failed" in states:
        return FAILED
    return PASSED if report["complete"] else INCOMPLETE


if __name__ == "__main__":
    raise SystemExit(main())
