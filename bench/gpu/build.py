"""Builds the kernels for the GPU that is there, target by target, in the background.

What was built is used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.plugin import HOST
from bench.gpu.process import ROOT, Process, end_of, last_lines
from bench.gpu.results import Record, Results, outcome

LIBRARY, PLUGIN = "liblccl_cuda.so", "lccl_trt_plugin"
TARGETS = ("lccl_cuda", PLUGIN, HOST)
"""In the order in which they are built."""
FOLDER = ROOT / "build" / "gpu_check_library"
TOOLKIT = "/usr/local/cuda"


def nvcc_path() -> str | None:
    """Path of nvcc.

    CUDACXX names it; else it is on the PATH, or in the toolkit of CUDA_PATH, CUDA_HOME or the usual
    place.
    """
    toolkits = [os.environ[name] for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    places = [
        (os.environ.get("CUDACXX"), None),
        ("nvcc", None),
        *(("nvcc", f"{toolkit}/bin") for toolkit in (*toolkits, TOOLKIT)),
    ]
    return next((found for name, path in places if name and (found := shutil.which(name, path=path))), None)


def tool_path(name: str, *others: str) -> str | None:
    """Path of a tool of the CUDA toolkit.

    It is on the PATH, beside nvcc, or at one of the other places under the toolkit.
    """
    found = shutil.which(name)
    nvcc = nvcc_path()
    if found or nvcc is None:
        return found
    toolkit = Path(nvcc).resolve().parent.parent
    beside = (toolkit / "bin" / name, Path(nvcc).parent / name, *(toolkit / other for other in others))
    return next((str(path) for path in beside if path.is_file()), None)


def compute_capability() -> str:
    """Of the first GPU, such as "90", by nvidia-smi; empty where that does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (subprocess.TimeoutExpired, OSError):
        return ""
    major, dot, minor = done.stdout.strip().partition(".")
    return f"{major}{minor}" if done.returncode == 0 and dot and major.isdigit() and minor.isdigit() else ""


def build_settings(architecture: str, nvcc: str) -> list[str]:
    """CMake's settings for one GPU.

    Another compiler than the tests' may warn of more; that is no reason not to run.
    """
    generator = ["-G", "Ninja"] if shutil.which("make") is None and shutil.which("ninja") else []
    switches = ("LCCL_CUDA=ON", "LCCL_EMULATOR=OFF", "LCCL_ORT=OFF", "LCCL_WARNINGS_ARE_ERRORS=OFF")
    tools = (f"LCCL_NVCC={nvcc}", f"LCCL_PYTHON={sys.executable}")
    return [
        *generator,
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real",
        "-DCMAKE_BUILD_TYPE=Release",
        *(f"-D{s}" for s in (*switches, *tools)),
    ]


def digest(library: Path) -> str:
    """Of a library's bytes: what was found of one is not true of another."""
    return hashlib.sha256(library.read_bytes()).hexdigest()[:16]


class Build:
    """The build, in a thread, from its beginning on."""

    def __init__(
        self, capability: str, results: Results, folder: Path = FOLDER, *, until: float, targets: Sequence[str] = TARGETS
    ) -> None:
        """A build that has not begun.

        Args:
            capability: of the GPU, such as "90"; empty: nobody knows.
            until: time.monotonic() at which the last target has to be there.
            targets: what is built, in this order; the library is the first.
        """
        self._targets = targets
        self._capability = capability
        self._results = results
        self._folder = folder
        self._until = until
        self._process: Process | None = None
        self._stopped = False
        self.done = {target: threading.Event() for target in TARGETS}
        """Set when a target is built, or will not be."""
        self.failed: dict[str, list[str]] = {}
        """Target -> what was said where it was not built; "configure" for all."""
        threading.Thread(target=self._all, daemon=True).start()

    def library(self) -> Path | None:
        """What was built, where it was."""
        if not self.done[TARGETS[0]].is_set() or "configure" in self.failed or TARGETS[0] in self.failed:
            return None
        found = sorted(self._folder.rglob(LIBRARY), key=lambda p: p.stat().st_mtime)
        return found[-1] if found else None

    def stop(self) -> None:
        """Ends what is still being built."""
        self._stopped = True
        if self._process is not None:
            self._process.end()

    def _all(self) -> None:
        try:
            if self._configure():
                for target in self._targets:
                    self._target(target)
                    self.done[target].set()
        except Exception as error:  # a thread's end must not be silent
            self.failed["configure"] = [f"{type(error).__name__}: {error}"]
            self._results.add("build", target="configure", status="failed", log=self.failed["configure"])
        finally:
            for event in self.done.values():
                event.set()

    def _configure(self) -> bool:
        nvcc = nvcc_path()
        missing = [name for name, path in (("cmake", shutil.which("cmake")), ("nvcc", nvcc)) if path is None]
        if missing or not self._capability:
            said = f"no {' and no '.join(missing)} here" if missing else "neither nvidia-smi nor PyTorch says which GPU this is"
            self.failed["configure"] = [said]
            self._results.add("build", target="configure", status="failed", words=said)
            return False
        settings = build_settings(self._capability, str(nvcc))
        return self._step("configure", ["cmake", "-S", str(ROOT), "-B", str(self._folder), *settings])

    def _target(self, target: str) -> bool:
        jobs = str(os.cpu_count() or 1)
        return self._step(target, ["cmake", "--build", str(self._folder), "--target", target, "--parallel", jobs])

    def _step(self, target: str, command: list[str]) -> bool:
        if self._stopped:
            self.failed[target] = ["not begun: the build was stopped"]
            return False
        began = time.monotonic()
        self._process = Process(command, self._results.log("build"))
        if self._stopped:  # since it was asked above
            self._process.end()
        done = self._process.wait(self._until)
        seconds = round(time.monotonic() - began, 1)
        if done.code == 0:
            self._results.add("build", target=target, status="passed", seconds=seconds)
            return True
        self.failed[target] = errors_of(done.output)
        words = "stopped" if self._stopped else end_of(done.code)
        self._results.add("build", target=target, status="failed", words=words, seconds=seconds, log=self.failed[target])
        return False


def errors_of(log: str) -> list[str]:
    """The lines that say why a build failed, else its last."""
    found = [line.strip() for line in log.splitlines() if "error" in line.lower() and "-Werror" not in line]
    return [line[:300] for line in (found[:6] or last_lines(log, 6))]


def chosen_library(build: Build | None, given: Path | None, until: float) -> tuple[Path | None, Record]:
    """The library to check, and the outcome of the step.

    It is the one that was built, else the one that was carried along.

    Args:
        build: None: nothing is built.
        until: time.monotonic() at which the library has to be there.
    """
    if build is None:
        if given is not None and given.is_file():
            return given, outcome("skipped", f"nothing was to be built: {given.name} as given")
        return None, outcome("failed", f"there is no library at {given}", [f"there is no library at {given}"])
    in_time = build.done[TARGETS[0]].wait(max(0.0, until - time.monotonic()))
    built = build.library()
    if built is not None:
        return built, outcome("passed", f"{built.name} was built here")
    if not in_time:
        build.stop()  # it would take the processors from what is measured
        why = ["it was not built in time"]
        if given is not None and given.is_file():
            return given, outcome("partial", f"the build was not done in time; {given.name} as given is used")
    else:
        why = [line for lines in build.failed.values() for line in lines] or [f"the build left no {LIBRARY}"]
    if given is not None and given.is_file():
        return given, outcome("failed", f"the build failed; {given.name} as given is used", why)
    return None, outcome("failed", "the build failed, and no library was given by --library", why)


def facts_of(library: Path) -> dict[str, Any]:
    return {"path": str(library), "sha256": digest(library), "bytes": library.stat().st_size}
