"""Virtual environments that hold another version of a package.

They are made once and kept in the checkout's build folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.builds.cmake import ROOT, alone_in


def environment(name: str, packages: Sequence[str], wanted: str = "") -> Path:
    """Folder of an environment with these packages; skips the test where they cannot be installed.

    Args:
        name: of the folder in ``build/``.
        wanted: installs again, newer versions too, where another text was given the last time.
    """
    folder = ROOT / "build" / name
    done = folder / "installed"
    with alone_in(folder):
        if not done.is_file() or done.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
            pip = [
                str(folder / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--upgrade",
            ]
            ran = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False, timeout=900)
            if ran.returncode != 0:
                pytest.skip(f"{', '.join(packages)} cannot be installed here: {ran.stderr.strip()[-200:]}")
            done.write_text(wanted)
    return folder
