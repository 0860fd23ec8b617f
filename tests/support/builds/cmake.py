"""Builds of the native code: each folder is configured, each target built, once per session.

One test run builds in a folder at a time.

The build folders are the checkout's own: where nothing changed, a second run compiles nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT = 1800
"""Seconds that a build may take."""
DONE = pytest.StashKey[dict[tuple[str, ...], str]]()
"""Commands that this session has run -> what they wrote to stderr."""


def why_no_cmake() -> str:
    """Why nothing native can be built here; empty where it can."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    return f"no {' and no '.join(missing)}: native libraries are built by CMake 3.25 or newer and g++" if missing else ""


def require_cmake() -> None:
    """Skip the test where nothing native can be built."""
    if why := why_no_cmake():
        pytest.skip(why)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder, and wait until no other test run works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def configure(request: pytest.FixtureRequest, folder: Path, arguments: Sequence[str]) -> str:
    """Configure a build folder, once per session.

    Args:
        arguments: of cmake, which lead to this folder.

    Returns:
        What CMake wrote to stderr: its warnings.

    Fails the test with CMake's last lines where that fails.
    """
    return _run_once(request, folder, ("cmake", *arguments))


def build(request: pytest.FixtureRequest, folder: Path, target: str) -> Path:
    """Build a target in a configured folder, once per session.

    The terminal says so, since the first time takes minutes.

    Returns:
        The folder.

    Fails the test with the compiler's last lines where the build fails.
    """
    command = ("cmake", "--build", str(folder), "--target", target, "--parallel", str(os.cpu_count() or 1))
    _run_once(request, folder, command, f"-- building {target} in {folder.relative_to(ROOT)} (minutes the first time)")
    return folder


def build_preset(
    request: pytest.FixtureRequest, preset: str, target: str, folder: str | None = None, options: Sequence[str] = ()
) -> Path:
    """Build a target of a preset of CMakePresets.json.

    Args:
        preset: its name.
        target: what to build.
        folder: in ``build``, for a build with options; None: the preset's own.
        options: more arguments of cmake.

    Returns:
        The build folder.
    """
    path = ROOT / "build" / (folder or preset)
    configure(request, path, ("--preset", preset, *(("-B", str(path)) if folder else ()), *options))
    return build(request, path, target)


def _run_once(request: pytest.FixtureRequest, folder: Path, command: tuple[str, ...], announced: str = "") -> str:
    done = request.config.stash.setdefault(DONE, {})
    if command not in done:
        terminal = request.config.pluginmanager.getplugin("terminalreporter")
        if announced and terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(announced)
        with alone_in(folder):
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        if ran.returncode != 0:
            said = "\n".join((ran.stdout + ran.stderr).splitlines()[-60:])
            pytest.fail(f"{' '.join(command)} failed in {ROOT}:\n{said}", pytrace=False)
        done[command] = ran.stderr
    return done[command]
