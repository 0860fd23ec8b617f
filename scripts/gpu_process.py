"""Processes of the GPU check, which end in time with all their children, and what a part's result looks like."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


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


def nvcc_path() -> str | None:
    """CUDA's compiler: the one that CUDACXX names, else on the PATH, else in the toolkit that CUDA_PATH or CUDA_HOME names."""
    toolkits = [f"{os.environ[name]}/bin" for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    places = [(os.environ.get("CUDACXX"), None), ("nvcc", None), *(("nvcc", toolkit) for toolkit in toolkits)]
    return next((found for name, path in places if name and (found := shutil.which(name, path=path))), None)
