"""Runs models in the ONNX Runtime of this environment, which has nothing else than NumPy, and prints what came of it as JSON.

    python in_another_onnxruntime.py LIBRARY THREADS SAVED FILE.npz

LIBRARY may be empty: then nodes run through their function. With SAVED, a file's name, ONNX Runtime optimises each model into that
file first, and that is run.

The file holds, for each case ``i``: ``i.model`` (bytes), ``i.element`` (ONNX's type of X), ``i.expected`` (float64) and
``i.feed.<name>``. 16-bit floats come as uint16.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np
import onnxruntime

FLOAT32, FLOAT16, BFLOAT16 = 1, 10, 16


def ort_value(array: Any, element: int) -> Any:
    if array.dtype == np.uint16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, element)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def open_session(model: bytes | str, library: str, threads: int, saved: str = "") -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.optimized_model_filepath = saved
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def infer(session: Any, feed: dict[str, Any], element: int) -> Any:
    """The output in float64."""
    binding = session.io_binding()
    held = [(name, ort_value(array, element)) for name, array in feed.items()]
    for name, value in held:
        binding.bind_ortvalue_input(name, value)
    binding.bind_output(session.get_outputs()[0].name)
    session.run_with_iobinding(binding)
    value = binding.get_outputs()[0]
    if element != BFLOAT16:
        return value.numpy().astype(np.float64)
    raw = (ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr())
    return (np.array(raw, np.uint32) << 16).view(np.float32).reshape(value.shape()).astype(np.float64)


def distance(got: Any, expected: Any, element: int) -> float:
    """The largest error over what the type allows: good up to 1. What is finite on one side only is infinitely far."""
    relative = {FLOAT32: 1e-5, FLOAT16: 2**-11, BFLOAT16: 2**-8}[element] * 1.001
    if got.shape != expected.shape or not (np.isfinite(got) == np.isfinite(expected)).all():
        return float("inf")
    known = np.isfinite(expected)
    over = np.abs(got - expected)[known] / (2e-5 + relative * np.abs(expected)[known])
    return float(over.max(initial=0.0))


def main(library: str, threads: str, saved: str, path: str) -> None:
    data = np.load(path)
    worst = {}
    for i in range(len({key.split(".")[0] for key in data})):
        element = int(data[f"{i}.element"])
        head = f"{i}.feed."
        feed = {key.removeprefix(head): data[key] for key in data if key.startswith(head)}
        session = open_session(data[f"{i}.model"].tobytes(), library, int(threads), saved)
        if saved:
            session = open_session(saved, library, int(threads))
        got = infer(session, feed, element)
        worst[i] = distance(got, data[f"{i}.expected"], element)
    print(json.dumps({"version": onnxruntime.__version__, "worst": worst}))


if __name__ == "__main__":
    main(*sys.argv[1:])
