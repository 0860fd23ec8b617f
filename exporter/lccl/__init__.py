"""LCCL: gated convolutions from PyTorch to ONNX and TensorRT engines, with a proof of what they cost and gain.

``import lccl`` loads nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lccl.requires import require
from lccl.version import __version__

if TYPE_CHECKING:
    from lccl import nn, ort
    from lccl.backends.tensorrt.library import load_plugin, plugin_path
    from lccl.comparing import compare
    from lccl.engine import build_engine
    from lccl.errors import ContractError, UserError
    from lccl.exporting import export
    from lccl.loading.checkpoint import save_checkpoint
    from lccl.loading.torch_file import load_checkpoint
    from lccl.profiling import profile

_LAZY = {
    "ContractError": "lccl.errors",
    "UserError": "lccl.errors",
    "build_engine": "lccl.engine",
    "compare": "lccl.comparing",
    "export": "lccl.exporting",
    "load_checkpoint": "lccl.loading.torch_file",
    "load_plugin": "lccl.plugin",
    "plugin_path": "lccl.plugin",
    "profile": "lccl.profiling",
    "save_checkpoint": "lccl.loading.checkpoint",
}

__all__ = [
    "ContractError",
    "UserError",
    "__version__",
    "build_engine",
    "compare",
    "export",
    "load_checkpoint",
    "load_plugin",
    "nn",
    "ort",
    "plugin_path",
    "profile",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    require(f"lccl.{name}")
    if name in ("nn", "ort"):
        return import_module(f"lccl.{name}")
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lccl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
