"""Canonical ONNX -> a serialized engine and a side-car that says what is in it."""

from lccl.backends.interface import BACKEND_NAMES, Backend, BuildRequest, LayerPath, Shapes
from lccl.engine.build import build_engine, choose_backend, make_backend
from lccl.engine.results import EngineResult
from lccl.engine.sidecar import SIDECAR_SUFFIX, read_sidecar

__all__ = [
    "BACKEND_NAMES",
    "SIDECAR_SUFFIX",
    "Backend",
    "BuildRequest",
    "EngineResult",
    "LayerPath",
    "Shapes",
    "build_engine",
    "choose_backend",
    "make_backend",
    "read_sidecar",
]
