"""The sdist: what git has of the checkout, and nothing that was built."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from conftest import ROOT
from support.builds.distributions import Distributions

MADE = {"PKG-INFO"}
"""What the build adds."""


def test_it_is_the_checkout_without_its_settings(distributions: Distributions) -> None:
    """Tests and what they need are in it; an environment, a build folder and a library that was built here are not."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git tells which files are the project's: run this in a checkout")
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate")
    said = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = {name for name in said if (ROOT / name).is_file()}
    hidden = {name for name in files if name.startswith(".") and name not in (".gitignore", ".clang-format")}
    assert distributions.sdist_files() - MADE == files - hidden


def test_nothing_built_is_in_it(distributions: Distributions) -> None:
    files = distributions.sdist_files()
    assert {"tests/conftest.py", "samples/session/gated.onnx", "exporter/lccl/__init__.py", "CMakePresets.json"} <= files
    assert not [name for name in files if name.endswith((".so", ".o", ".pyc")) or name.startswith(("build/", "dist/"))]
    assert distributions.sdist.stat().st_size < 20_000_000
