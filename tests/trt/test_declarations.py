"""The project's declaration of TensorRT's interfaces gives the tables of functions that NVIDIA's headers give."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from support.builds.cmake import why_no_cmake
from vtables import ROOT, official, own

EXPECTED = json.loads((Path(__file__).parent / "expected_vtables.json").read_text())
"""Taken from NVIDIA's headers of 10.13.3; those of 10.3, 10.8, 10.16, 11.0 and 11.1 gave the same."""
CLONE = "virtual IPluginV3* clone() noexcept = 0;"
CAPABILITY = "virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;"
PLUGIN = ROOT / "trt_plugin" / "plugin"

pytestmark = pytest.mark.skipif(bool(why_no_cmake()), reason=why_no_cmake() or "g++ is here")


def test_the_declaration_is_nvidia_s() -> None:
    assert own() == EXPECTED


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CLONE, f"virtual void another() {{}}\n    {CLONE}"),
        (f"{CAPABILITY}\n    {CLONE}", f"{CLONE}\n    {CAPABILITY}"),
        ("    Dims min;\n", ""),
    ],
)
def test_another_declaration_is_seen(tmp_path: Path, before: str, after: str) -> None:
    folder = tmp_path / "plugin"
    shutil.copytree(PLUGIN, folder)
    header = folder / "nvinfer_declarations.h"
    text = header.read_text()
    assert before in text
    header.write_text(text.replace(before, after))
    (folder / "nvinfer.h").write_text('#include "nvinfer_declarations.h"\n')  # without its assertions
    assert own(folder) != EXPECTED


def test_nvidia_s_headers_give_the_same() -> None:
    roots = [Path(p) for p in (os.environ.get("TENSORRT_ROOT", ""), "/usr", "/usr/local/TensorRT") if p]
    include = next((r / "include" for r in roots if (r / "include" / "NvInferRuntime.h").is_file()), None)
    if include is None:
        pytest.skip("TensorRT's headers are not here: unpack them and set TENSORRT_ROOT")
    assert official(include) == EXPECTED
