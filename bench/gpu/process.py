"""Processes of the GPU check.

Their output goes to a log line by line, and ending one never waits for long.

A process whose kernel hangs in the driver cannot be killed; it is left behind, and the check goes
on without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "@lccl "
"""Before a message of a child in JSON, on a line of its output."""
GRACE_S = 3.0
"""That a killed process has to end in."""
KEPT_LINES = 2000
"""Of a process's output, for the reports; the log has all of them."""
LOG_BYTES = 8 * 2**20
"""A log takes no more."""


@dataclass(frozen=True)
class Done:
    """A process that ended, or was ended."""

    code: int | None
    """None: the time was up."""
    output: str
    """The last lines of its stdout and stderr."""


class Process:
    """A child in a session of its own, so that its children can be ended with it."""

    def __init__(self, command: Sequence[str], log: Path, *, label: str = "", **environment: str) -> None:
        """Start the process.

        Args:
            log: its output is appended there; None keeps it here alone.
            label: before each line of the log.
        """
        self._log = log
        self._label = f"{label}: " if label else ""
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        """What the child says in JSON; None at the end of its output."""
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._pump = threading.Thread(target=self._read, daemon=True)
        self._pump.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._log.open("ab", buffering=0) as log:
            for raw in self._popen.stdout:
                line = raw.decode(errors="replace").rstrip("\n")
                before, mark, message = line.partition(MARK)
                if mark:
                    with contextlib.suppress(json.JSONDecodeError):
                        self.messages.put(json.loads(message))
                        line = before
                        if not before:
                            continue
                self._kept.append(line)
                if log.tell() < LOG_BYTES:
                    log.write(f"{self._label}{line}\n".encode())
        self.messages.put(None)

    @property
    def output(self) -> str:
        return "\n".join(list(self._kept))

    def wait(self, until: float) -> Done:
        """Waits until time.monotonic() is ``until``, then ends the process and its children."""
        try:
            code: int | None = self._popen.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        self.end()
        return Done(code, self.output)

    def next_message(self, until: float) -> dict[str, Any] | None:
        """The child's next message; None if its output ended.

        Raises:
            TimeoutError: neither came before time.monotonic() was ``until``.
        """
        try:
            return self.messages.get(timeout=max(0.01, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None

    def exit_code(self) -> int | None:
        """Of a child whose output has ended; None if it does not exit."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(GRACE_S)
        return None

    def end(self) -> bool:
        """Kills the process and its children. False: it is still there, and nobody waits for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        try:
            self._popen.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return False
        self._pump.join(GRACE_S)
        return True


def end_of(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it did not end in time and was ended"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def last_lines(text: str, count: int = 12) -> list[str]:
    """The last lines that say something."""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
