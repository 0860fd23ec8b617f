"""The count of what ran: a run in which too little passed fails where all was asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_too_little_fails(asked: bool) -> None:
    """The tests that are left have no class and no file in them."""
    command = [sys.executable, "-m", "pytest", "-q", str(HERE / "test_packages.py"), *(["--all-real"] if asked else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], check=False)
    assert done.returncode == int(asked), done.stdout
    assert "0 of at least 12 real_class, 0 of at least 6 real_file" in done.stdout
