"""LCCL: gated convolutions from PyTorch to ONNX and TensorRT, with a proof of what they gain.

``import lccl`` loads nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lccl.errors.requires import is_ready, needing, require
from lccl.version import __version__

if TYPE_CHECKING:
    from lccl import nn, ort, plugin, train
    from lccl.comparing import Comparison, LatencyPlan, Limits, compare
    from lccl.engine import EngineResult, build_engine
    from lccl.errors import ContractError, Fix, UserError
    from lccl.exporting import ExportResult, export
    from lccl.exporting.inspection import Inspection, inspect
    from lccl.loading.checkpoint import save_checkpoint
    from lccl.loading.torch_file import load_checkpoint
    from lccl.nn.warming import WarmUp, warm_up
    from lccl.plugin import load_plugin, plugin_path
    from lccl.profiling import NetworkProfile, profile
    from lccl.tuning import TuneResult, tune

_PACKAGES = ("nn", "ort", "plugin", "train")
_LAZY = {
    "Comparison": "lccl.comparing",
    "ContractError": "lccl.errors",
    "EngineResult": "lccl.engine",
    "ExportResult": "lccl.exporting",
    "Fix": "lccl.errors",
    "Inspection": "lccl.exporting.inspection",
    "LatencyPlan": "lccl.comparing",
    "Limits": "lccl.comparing",
    "NetworkProfile": "lccl.profiling",
    "TuneResult": "lccl.tuning",
    "UserError": "lccl.errors",
    "WarmUp": "lccl.nn.warming",
    "build_engine": "lccl.engine",
    "compare": "lccl.comparing",
    "export": "lccl.exporting",
    "inspect": "lccl.exporting.inspection",
    "load_checkpoint": "lccl.loading.torch_file",
    "load_plugin": "lccl.plugin",
    "plugin_path": "lccl.plugin",
    "profile": "lccl.profiling",
    "save_checkpoint": "lccl.loading.checkpoint",
    "tune": "lccl.tuning",
    "warm_up": "lccl.nn.warming",
}

__all__ = [
    "Comparison",
    "ContractError",
    "EngineResult",
    "ExportResult",
    "Fix",
    "Inspection",
    "LatencyPlan",
    "Limits",
    "NetworkProfile",
    "TuneResult",
    "UserError",
    "WarmUp",
    "__version__",
    "build_engine",
    "compare",
    "export",
    "inspect",
    "load_checkpoint",
    "load_plugin",
    "nn",
    "ort",
    "plugin",
    "plugin_path",
    "profile",
    "save_checkpoint",
    "train",
    "tune",
    "warm_up",
]

if not TYPE_CHECKING:  # from lccl import *: the names that work with what is installed
    __all__ = [name for name in __all__ if is_ready(f"lccl.{name}")]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    require(f"lccl.{name}")
    if name in _PACKAGES:
        return import_module(f"lccl.{name}")
    if name in _LAZY:
        with needing(f"lccl.{name}"):
            value: object = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lccl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(("__version__", *_PACKAGES, *_LAZY))
