"""Watch a step's process call by call.

A call that crashes or hangs costs its configuration alone, and a new process goes on.

The child says before each call what it is, and after it that it came back (``child``). No PyTorch
and no CUDA here: what breaks a GPU's context, or hangs in the driver, breaks and hangs the child.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.process import Process, end_of, last_lines
from bench.gpu.results import Record, Results, outcome

MOST_TOLD = 40
"""Faults of a step that are written down; all are counted."""
CRASH, HANG = "crash", "hang"


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    item: float = 10.0
    """From the beginning of a call to its end."""
    idle: float = 90.0
    """Between calls, and for a new process to begin: PyTorch is imported and a context is made."""


@dataclass
class State:
    """What a new process of a step has to know."""

    without: set[tuple[str, str]] = field(default_factory=set)
    """(configuration, type) that are not to run."""
    first: int = 0
    """Number of what it begins with."""

    def as_dict(self) -> dict[str, Any]:
        return {"without": sorted(self.without), "first": self.first}


class Supervised:
    """One step."""

    def __init__(
        self,
        step: str,
        command: Callable[[State], Sequence[str]],
        results: Results,
        state: State,
        limits: Limits,
        *,
        most_restarts: int = 6,
    ) -> None:
        self._step = step
        self._command = command
        self._results = results
        self.state = state
        self._limits = limits
        self._most_restarts = most_restarts
        self._faults: list[str] = []
        self._current: Record | None = None
        self._resume = 0
        self._stalls = 0
        """Processes, one after the other, that went away between calls."""
        self._leaving = False
        """The child said that it ends, because its context is broken."""
        self._process: Process | None = None

    def run(self, until: float) -> Record:
        """The step's outcome.

        Ends before time.monotonic() is ``until``, but for the seconds that it takes to kill a
        process.
        """
        restarts = 0
        try:
            while True:
                done = self._one(until)
                if done is not None:
                    return self._joined(done, restarts)
                restarts += 1
                if restarts > self._most_restarts or self._stalls > 1:
                    return self._joined(outcome("failed", f"given up after {restarts} processes"), restarts)
                if time.monotonic() > until:
                    return self._joined(outcome("partial", "the time was up"), restarts)
        finally:
            if self._process is not None:
                self._process.end()
            if self._current is not None:  # interrupted, or the time was up
                self._results.add("unfinished", step=self._step, **self._current)

    def _joined(self, done: Record, restarts: int) -> Record:
        faults = list(dict.fromkeys([*self._faults, *done.get("faults", ())]))
        count = max(len(faults), done.get("fault_count", 0))
        words = f"{done['words']}; {restarts} more processes" if restarts else done["words"]
        status = "failed" if faults else done["status"]
        return {**done, **outcome(status, words, faults), "fault_count": count}

    def _one(self, until: float) -> Record | None:
        """One process: the step's result, or None if a call did not come back."""
        log = self._results.log(self._step)
        with log.open("a") as file:
            file.write(f"== {self._step}: {self.state.as_dict()}\n")
        self._current, self._leaving = None, False
        process = self._process = Process(self._command(self.state), log)
        limit = time.monotonic() + self._limits.idle
        while True:
            if time.monotonic() >= until:  # whatever it still has to say
                process.end()
                what = f", in {self._words()}" if self._current else ""
                return outcome("partial", f"the time was up{what}")
            try:
                message = process.next_message(min(limit, until))
            except TimeoutError:
                if time.monotonic() >= until:
                    continue
                ended = process.end()
                self._lost(HANG, "" if ended else "; the process cannot be killed", process)
                return None
            if message is None:
                self._lost(CRASH, end_of(process.exit_code()), process)
                process.end()
                return None
            event = message.pop("event", "")
            now = time.monotonic()
            if event == "begin":
                self._current = message
                if self._step == "smoke":  # the first calls: whatever ends this machine with them is named
                    self._results.add("begin", step=self._step, **message)
                self._resume = int(message.get("resume", 0))
                limit = now + self._limits.item
            elif event == "end":
                self._end(message)
                limit = now + self._limits.idle
            elif event == "fault":
                self._fault(str(message["words"]))
            elif event == "record":
                self._results.add(message.pop("kind"), step=self._step, **message)
            elif event == "done":
                process.end()
                return dict(message["result"])

    def _end(self, message: Record) -> None:
        begun, self._current = self._current, None
        self._stalls = 0
        if begun is None or "verdict" not in message:
            return
        self._results.add("item", step=self._step, **begun, **message)
        if message["verdict"] == CRASH:
            self._leaving = bool(message.get("leaving"))
            self._leave_out(begun)

    def _words(self) -> str:
        assert self._current is not None
        return " ".join(str(self._current.get(name, "")) for name in ("config", "dtype", "form")).strip()

    def _lost(self, verdict: str, said: str, process: Process) -> None:
        """A process went away, or is silent."""
        begun, self._current = self._current, None
        if begun is None and self._leaving:
            return
        if begun is None:
            self._stalls += 1
            self.state.first = max(self.state.first, self._resume)
            words = f"{verdict} between calls: {said or 'nothing was heard of it in time'}"
            self._fault(words, last_lines(process.output))
            return
        words = said if verdict == CRASH else f"no answer within {self._limits.item:g} s{said}"
        self._results.add("item", step=self._step, **begun, verdict=verdict, words=words, log=last_lines(process.output, 5))
        name = " ".join(str(begun.get(part, "")) for part in ("config", "dtype")).strip()
        self._fault(f"{name or 'a call'}: {verdict}: {words}: {begun.get('form', '')}")
        self._leave_out(begun)

    def _leave_out(self, begun: Record) -> None:
        """The configuration runs no more, and a new process goes on where the call said."""
        if begun.get("config"):
            self.state.without.add((begun["config"], begun.get("dtype", "")))
        self.state.first = int(begun.get("resume", 0))

    def _fault(self, words: str, log: Sequence[str] = ()) -> None:
        self._faults.append(words)
        if len(self._faults) <= MOST_TOLD:
            self._results.add("fault", step=self._step, words=words[:2000], **({"log": list(log)} if log else {}))
