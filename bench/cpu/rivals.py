"""What a user has without gates: the dense network in ONNX Runtime's static INT8, and in OpenVINO."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from bench.cpu.common import Array
from bench.cpu.contest import Candidate, OpenVinoRunner, OrtRunner, Plan, openvino_there, race

Feed = Mapping[str, Array]


class _Calibration:
    """Inputs, one after another, as ONNX Runtime's quantiser reads them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next input, or None at the end."""
        return next(self._feeds, None)


def quantized(dense: onnx.ModelProto, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """Return a dense model quantised by ONNX Runtime's own static quantiser, with its defaults.

    QDQ, activations in uint8 by the range that the feeds give, weights in int8 per channel.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    reader: Any = type("Reader", (_Calibration, CalibrationDataReader), {})(feeds)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "dense.onnx", Path(folder) / "int8.onnx"
        onnx.save(dense, source)
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                source,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)


def rivals_over_dense(dense: onnx.ModelProto, feeds: Sequence[Feed], threads: int) -> dict[str, float]:
    """Return how many times faster than the dense network in ONNX Runtime each rival is.

    Args:
        dense: the dense network.
        feeds: its inputs, all of one shape; the first is timed.
        threads: of one inference.

    Returns:
        "int8", and "openvino" where it is installed: ratios of medians over interleaved rounds.
    """
    plain, small = dense.SerializeToString(), quantized(dense, feeds).SerializeToString()
    x = {"x": next(iter(feeds[0].values()))}
    candidates = [
        Candidate("dense", lambda: OrtRunner(plain, threads), x),
        Candidate("int8", lambda: OrtRunner(small, threads), x),
    ]
    if openvino_there():
        candidates.append(Candidate("openvino", lambda: OpenVinoRunner(plain, threads), x))
    samples = race(candidates, threads, Plan(seconds=10)).samples
    medians = {name: sorted(times)[len(times) // 2] for (name, _), times in samples.items()}
    return {name: medians["dense"] / own for name, own in medians.items() if name != "dense"}
