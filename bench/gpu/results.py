"""Results of the GPU check: one JSON object a line, each whole and flushed.

They are written from the first second on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS, REPORT, VERDICT = "results.jsonl", "report.md", "verdict.txt"
LOGS = ("build.log", "smoke.log", "checks.log", "sanitizer.log", "profile.log")
"""With the three files above, all that a folder of results holds."""
MOST_FAULTS = 20
"""Of a step that are written out; all are counted."""
Record = dict[str, Any]


def outcome(status: str, words: str, faults: Sequence[str] = (), **numbers: Any) -> Record:
    """A step's result: passed, failed, partial (no fault, but not all was done) or skipped."""
    return {
        "status": status,
        "words": words,
        "faults": [fault[:2000] for fault in faults[:MOST_FAULTS]],
        "fault_count": len(faults),
        **numbers,
    }


class Results:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / RESULTS
        self._began = time.monotonic()
        if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")  # a run that was killed may have left half a line

    def log(self, step: str) -> Path:
        """The log that a step writes to."""
        return self.folder / (f"{step}.log" if f"{step}.log" in LOGS else "checks.log")

    def add(self, kind: str, **fields: Any) -> None:
        """Appends an object, in one write."""
        record = {"kind": kind, "at": round(time.monotonic() - self._began, 2), **fields}
        line = (json.dumps(record, default=str) + "\n").encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def records(self) -> list[Record]:
        """Of the last run."""
        return last_run(read(self.path))

    def write(self, name: str, text: str) -> None:
        """A file that is whole at any time."""
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / name)


def read(path: Path) -> list[Record]:
    """All objects of a file; a line that was cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "kind" in record:
            records.append(record)
    return records


def last_run(records: Sequence[Record]) -> list[Record]:
    """From the last object of the kind "run" on."""
    starts = [i for i, record in enumerate(records) if record["kind"] == "run"]
    return list(records[starts[-1] :]) if starts else list(records)


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]
