"""The CPU op's library, and other versions of ONNX Runtime to load it into."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from support.builds.cmake import ROOT, build, configure, require_cmake
from support.builds.environments import environment

VERSIONS = ("1.20.1", "1.26.0", "newest")
"""Of ONNX Runtime: the oldest that is supported, one between, and what the package index has."""


@pytest.fixture(scope="session")
def ort_library(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_ort.so, up to date with its sources; skips where it cannot be built."""
    require_cmake()
    folder = ROOT / "build" / "ort"
    if "Without liblccl_ort.so" in configure(request, folder, ("--preset", "ort")):
        pytest.skip("no header of ONNX Runtime and no network: set LCCL_ONNXRUNTIME_INCLUDE")
    return build(request, folder, "lccl_ort") / "liblccl_ort.so"


@pytest.fixture(scope="session")
def onnxruntime_headers(ort_library: Path) -> Path:
    """The folder of the header that the library was compiled with."""
    cache = (ort_library.parent / "CMakeCache.txt").read_text()
    (folder,) = re.findall(r"^LCCL_ONNXRUNTIME_HEADERS_USED:INTERNAL=(.+)$", cache, re.MULTILINE)
    return Path(folder)


@pytest.fixture(scope="session", params=VERSIONS)
def other_onnxruntime(request: pytest.FixtureRequest) -> Path:
    """Python of an environment that holds one version of ONNX Runtime.

    Skips where it cannot be installed.
    """
    version = request.param
    newest = version == "newest"
    package = "onnxruntime" if newest else f"onnxruntime=={version}"
    wanted = datetime.date.today().isoformat() if newest else ""
    return environment(f"onnxruntime/{version}", (package, "numpy"), wanted) / "bin" / "python"
