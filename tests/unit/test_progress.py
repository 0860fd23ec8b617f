"""Progress on a terminal: steps show, stdout has only the result, the line disappears."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lccl.console.progress import on_terminal, silent


def on_a_terminal(*arguments: object) -> tuple[int, str, str]:
    """Run Python with a terminal as stderr; return exit code, stdout and what the terminal got."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=its, text=True, env=environment
    )
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's end of file: the last process has closed the terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, shown.decode(errors="replace")


@pytest.mark.slow
def test_steps_and_a_bar() -> None:
    code = (
        "import time\n"
        "from lccl.console.progress import on_terminal\n"
        "with on_terminal() as progress:\n"
        "    progress('reading [the] model')\n"
        "    time.sleep(0.3)\n"
        "    progress('measuring', 3, 4)\n"
        "    time.sleep(0.3)\n"
        "print('result')\n"
    )
    status, out, shown = on_a_terminal("-c", code)
    assert (status, out) == (0, "result\n")
    assert "reading [the] model" in shown
    assert "measuring" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "the line is erased when the work is done"


def test_an_error_ends_the_bar() -> None:
    code = "from lccl.console.progress import on_terminal\nwith on_terminal() as p:\n    p('working')\n    raise SystemExit('error: no')\n"
    status, out, shown = on_a_terminal("-c", code)
    assert (status, out) == (1, "")
    assert shown.rstrip().endswith("error: no")


@pytest.mark.slow
def test_the_exports_steps(checkpoint: Path, tmp_path: Path) -> None:
    status, out, shown = on_a_terminal("-m", "lccl.cli.export", checkpoint, "-o", tmp_path / "m.onnx", "--json")
    assert status == 0, shown
    assert json.loads(out)["path"] == str(tmp_path / "m.onnx")
    for step in ("loading PyTorch", "tracing the model"):
        assert step in shown


def test_nothing_where_there_is_no_terminal() -> None:
    with on_terminal() as progress:
        assert progress is silent
