"""One binary in several versions of ONNX Runtime: the oldest that is supported, one between, the newest.

Each gets an environment of its own in build/onnxruntime, made once; without a package index the tests skip and say so.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from conftest import ROOT
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES
from support.graphs.models import case_model
from support.hosts.onnxruntime import DTYPES

SCRIPT = ROOT / "tests" / "ort" / "in_another_onnxruntime.py"


def write_cases(path: Path, dtypes: Sequence[Any] = DTYPES) -> int:
    """Every named case in every type; how many."""
    arrays: dict[str, Any] = {}
    pairs = [(case, dtype) for case in CASES for dtype in dtypes]
    for i, (case, dtype) in enumerate(pairs):
        model, feed = case_model(case, dtype)
        arrays[f"{i}.model"] = np.frombuffer(model.SerializeToString(), np.uint8)
        arrays[f"{i}.element"] = helper.np_dtype_to_tensor_dtype(dtype)
        arrays[f"{i}.expected"] = lccl_conv(case.inputs(dtype), case.attributes)
        for name, array in feed.items():
            arrays[f"{i}.feed.{name}"] = array if array.dtype == np.float32 else array.view(np.uint16)
    np.savez(path, **arrays)
    return len(pairs)


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.fixture(scope="module")
def case_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("versions") / "cases.npz"
    return path, write_cases(path)


def ask(python: Path, library: Path | str, threads: int, path: Path, saved: Path | str = "") -> Any:
    command = [str(python), str(SCRIPT), str(library), str(threads), str(saved), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("threads", [1, 2])
def test_every_case_in_every_type(
    other_onnxruntime: Path, ort_library: Path, case_file: tuple[Path, int], threads: int
) -> None:
    path, count = case_file
    said = ask(other_onnxruntime, ort_library, threads, path)
    folder = other_onnxruntime.parent.parent.name
    assert said["version"] == folder or (folder == "newest" and release(said["version"]) >= release(onnxruntime.__version__))
    assert len(said["worst"]) == count
    assert {i: worst for i, worst in said["worst"].items() if not worst <= 1} == {}


@pytest.mark.parametrize("way", ["without the library", "optimised and saved"])
def test_every_case_in_float32(other_onnxruntime: Path, ort_library: Path, tmp_path: Path, way: str) -> None:
    count = write_cases(tmp_path / "cases.npz", DTYPES[:1])
    library, saved = ("", "") if way == "without the library" else (ort_library, tmp_path / "saved.onnx")
    said = ask(other_onnxruntime, library, 1, tmp_path / "cases.npz", saved)
    assert len(said["worst"]) == count
    assert {i: worst for i, worst in said["worst"].items() if not worst <= 1} == {}


def test_a_wrong_result_would_be_seen(other_onnxruntime: Path, ort_library: Path, tmp_path: Path) -> None:
    """One element off by eight roundings of bfloat16, in each type."""
    whole, wrong = tmp_path / "cases.npz", tmp_path / "wrong.npz"
    write_cases(whole)
    arrays = {key: value for key, value in np.load(whole).items() if int(key.split(".")[0]) < len(DTYPES)}
    for i in range(len(DTYPES)):
        arrays[f"{i}.expected"].flat[0] += 2**-5 * (1 + abs(arrays[f"{i}.expected"].flat[0]))
    np.savez(wrong, **arrays)
    worst = ask(other_onnxruntime, ort_library, 1, wrong)["worst"]
    assert all(worst[str(i)] > 1 for i in range(len(DTYPES)))
