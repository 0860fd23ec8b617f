"""The sdist and the wheel, each built once per session, and what other builds start from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.builds.cmake import ROOT, TIMEOUT, require_cmake, why_no_cmake

NOWHERE = "http://127.0.0.1:9"
"""A server that is not there."""
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
"""An environment in which every download is refused."""
COPIED = ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "contract", "exporter", "ort_op", "trt_plugin")


@dataclass(frozen=True)
class Distributions:
    """What ``python -m build`` makes of the checkout: the sdist, and the wheel out of the sdist."""

    sdist: Path
    wheel: Path

    def sdist_files(self) -> set[str]:
        """Paths below the sdist's one folder."""
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}

    def wheel_files(self) -> set[str]:
        """Paths in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}


def run_python(*arguments: str | Path, python: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout, with these variables beside the environment's."""
    command = [str(python or sys.executable), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=os.environ | environment
    )


@pytest.fixture(scope="session")
def distributions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built without the network, with ONNX Runtime's header from a given folder; where there is no compiler, without the CPU op."""
    missing = [name for name in ("build", "scikit_build_core") if find_spec(name) is None]
    if missing:
        pytest.fail(f"no {' and no '.join(missing)}: pip install -c constraints.txt -e '.[dev]'", pytrace=False)
    folder = tmp_path_factory.mktemp("distributions")
    options = []
    if not why_no_cmake():
        headers = request.getfixturevalue("onnxruntime_headers")
        options = ["-C", f"cmake.define.LCCL_ONNXRUNTIME_INCLUDE={headers}"]
    done = run_python("-m", "build", "--no-isolation", "--outdir", folder, *options, ROOT, **OFFLINE)
    if done.returncode != 0:
        pytest.fail(f"python -m build failed:\n{(done.stdout + done.stderr)[-3000:]}", pytrace=False)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def bare_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a wheel is built from, without anything that was built; skips where CMake is not."""
    require_cmake()
    folder = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("lib", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def pip_wheel(
    source: Path, folder: Path, options: Sequence[str] = (), **environment: str
) -> tuple[Path | None, subprocess.CompletedProcess[str]]:
    """The wheel that pip builds from a folder, None where that fails, and what pip said."""
    command = ("-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    done = run_python(*command, folder, "-C", f"build-dir={folder / 'build'}", *options, source, **OFFLINE, **environment)
    return next(folder.glob("lccl-*.whl"), None), done
