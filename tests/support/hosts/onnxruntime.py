"""Models in ONNX Runtime, with the CPU op's library or without, in every type of the op."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
LIMITS = {"float32": (1e-5, 2e-5), "float16": (2**-11, 2e-5), "bfloat16": (2**-8, 2e-5)}
"""Relative and absolute: a rounding of the output, and what float32 sums differ by."""


def open_session(
    model: onnx.ModelProto | Path, library: Path | None, threads: int = 1, level: str = "ALL", saved: Path | None = None
) -> Any:
    """A session on the CPU.

    Args:
        library: registered if given.
        level: of graph optimisations: "ALL", "BASIC", "EXTENDED" or "DISABLE_ALL".
        saved: where the optimised graph is written.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    name = level if level == "DISABLE_ALL" else f"ENABLE_{level}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    if library is not None:
        options.register_custom_ops_library(str(library))
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def infer(session: Any, feed: Mapping[str, Any]) -> Any:
    """The first output. Unlike ``session.run`` it takes bfloat16, which NumPy does not know."""
    import onnxruntime

    binding = session.io_binding()
    elements = {"float16": 10, "bfloat16": 16}
    held = []
    for name, array in feed.items():
        plain = np.ascontiguousarray(array)
        if plain.dtype.name in elements:
            held.append(
                onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain.view(np.uint16), elements[plain.dtype.name])
            )
        else:
            held.append(onnxruntime.OrtValue.ortvalue_from_numpy(plain))
        binding.bind_ortvalue_input(name, held[-1])
    output = session.get_outputs()[0]
    binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    value = binding.get_outputs()[0]
    if output.type != "tensor(bfloat16)":
        return value.numpy()
    import ctypes

    size = int(np.prod(value.shape()))
    raw = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else []
    return np.array(raw, np.uint16).view(ml_dtypes.bfloat16).reshape(value.shape())


def assert_close(got: Any, expected: Any, dtype: Any) -> None:
    """``got`` against the float64 reference, within one rounding of the type."""
    relative, absolute = LIMITS[np.dtype(dtype).name]
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=relative * 1.001, atol=absolute)
