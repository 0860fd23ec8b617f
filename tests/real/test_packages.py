"""The packages of this folder: pinned, and in no list of what the project needs."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT
from real.packages import PACKAGES, is_installed


def test_every_package_is_pinned() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", package) for package in PACKAGES)


def test_the_project_needs_none_of_them() -> None:
    needed = (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    assert [package for package in PACKAGES if package.partition("==")[0] in needed] == []


def test_other_versions_are_not_what_is_wanted(tmp_path: Path) -> None:
    assert not is_installed(tmp_path)
    (tmp_path / "packages.txt").write_text("torchvision==0.1.0")
    assert not is_installed(tmp_path)
    (tmp_path / "packages.txt").write_text("\n".join(PACKAGES))
    assert is_installed(tmp_path)
