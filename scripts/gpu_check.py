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
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpu_plugin import HOST, check_plugin
from gpu_process import ROOT, finish, last_lines, nvcc_path, outcome, start
from gpu_sanitizer import sanitize

for _folder in ("bench", "scripts", "tests", "tests/trt", "exporter"):
    sys.path.insert(0, str(ROOT / _folder))

WEIGHTS = {
    "build": 1.5,
    "sweep": 2.0,
    "masks": 0.5,
    "offsets": 0.5,
    "graph": 0.5,
    "streams": 0.5,
    "plugin": 0.5,
    "sanitizer": 1.5,
    "bench": 1.5,
}
"""Part -> its share of the time."""
FORMS = {"sweep": 3000, "masks": 300}
"""Part -> random forms that make it complete."""
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
            return sanitize(Path(__file__), self.library, self.scratch, until)
        if part == "plugin":
            return check_plugin(self.library.parent, self.scratch, until)
        return self._bench(until) if part == "bench" else self._child(part, until)

    def _build(self, until: float) -> dict[str, Any]:
        if self.library is not None:
            return outcome("skipped", f"--library names {self.library}")
        nvcc = nvcc_path()
        missing = [name for name, path in (("cmake", shutil.which("cmake")), ("nvcc", nvcc)) if path is None]
        if missing:
            said = f"no {' and no '.join(missing)} on the PATH"
            return outcome("failed", said, [said])
        import torch

        cuda: Any = torch.cuda
        major, minor = cuda.get_device_capability(0)
        folder = ROOT / "build" / "gpu_check_library"
        jobs = str(os.cpu_count() or 1)
        steps = (
            ["cmake", "-S", str(ROOT), "-B", str(folder), *build_settings(f"{major}{minor}", str(nvcc))],
            ["cmake", "--build", str(folder), "--target", "lccl_cuda", "lccl_trt_plugin", HOST, "--parallel", jobs],
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

    def _bench(self, until: float) -> dict[str, Any]:
        log, out, table = (self.scratch / f"bench.{end}" for end in ("log", "json", "md"))
        minutes = max(5.0, until - time.monotonic() - START_S) / 60
        command = [sys.executable, str(ROOT / "bench" / "gpu_layers.py"), "--quick", "--library", str(self.library)]
        command += ["--minutes", f"{minutes:.2f}", "--json", str(out), "--markdown", str(table)]
        command += ["--peak", str(self.options.peak)] if self.options.peak else []
        done = finish(start(command, log), log, until)
        self.bench = json.loads(out.read_text()) if out.is_file() else {}
        self.bench_table = table.read_text() if table.is_file() else ""
        words = bench_words(self.bench)
        if done.code == 0:
            return outcome("passed" if self.bench.get("complete") else "partial", words)
        if done.code is None:
            return outcome("partial" if self.bench.get("rows") else "failed", f"{words}; it did not end in time and was ended")
        return outcome("failed", f"{words}; exit code {done.code}", last_lines(done.output))


def build_settings(architecture: str, nvcc: str) -> list[str]:
    """CMake's settings for one GPU. Another compiler than the tests' may warn of more; that is no reason not to run."""
    generator = ["-G", "Ninja"] if shutil.which("make") is None and shutil.which("ninja") else []
    switches = ("LCCL_CUDA=ON", "LCCL_EMULATOR=OFF", "LCCL_WARNINGS_ARE_ERRORS=OFF", f"LCCL_NVCC={nvcc}")
    return [
        *generator,
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
        "-DCMAKE_BUILD_TYPE=Release",
        *(f"-D{s}" for s in switches),
    ]


def bench_words(bench: dict[str, Any]) -> str:
    """How much was measured, and how many of the ratios that it is held to were reached."""
    results = [target["result"] for target in bench.get("targets", ())]
    held = ", ".join(f"{results.count(word)} {word}" for word in dict.fromkeys(results))
    return f"{len(bench.get('rows', ()))} rows" + (f"; targets: {held}" if held else "")


def child(options: argparse.Namespace) -> int:
    """One part in this process."""
    import torch
    from gpu_forms import Bench
    from gpu_offsets import offsets
    from gpu_parts import graph, masks, streams, sweep
    from gpu_sanitized import planted_fault, sanitized

    from lccl.cuda.library import load
    from lccl.cuda.torch_backend import device_of

    place = torch.device("cuda", 0)
    bench = Bench(load(options.library), device_of(place), place)
    if options.planted:
        planted_fault(bench, options.sanitized_child)
    if options.sanitized_child:
        return sanitized(bench, poison=options.sanitized_child != "initcheck")
    deadline = time.monotonic() + options.seconds
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "sweep": lambda: sweep(bench, deadline, FORMS["sweep"]),
        "masks": lambda: masks(bench, deadline, FORMS["masks"]),
        "offsets": lambda: offsets(bench, deadline),
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
    from lccl.files import atomic_path

    out.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps({**report, "bench": check.bench}, indent=1), "md": markdown(report, check.bench_table)}
    for end, text in texts.items():
        with atomic_path(out / f"gpu_check.{end}") as path:
            path.write_text(text)


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
