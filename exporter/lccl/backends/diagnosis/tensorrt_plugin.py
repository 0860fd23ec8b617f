"""The TensorRT plugin: where it is, and what the registry of each TensorRT here says to it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lccl.errors import UserError, first_line
from lccl.errors.requires import how_to_install
from lccl.version import __version__

MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
"""TensorRT, and its runtime without a builder."""


def plugin_report(library: str | None = None) -> dict[str, Any]:
    """Return what is here, as plain values.

    Args:
        library: the plugin's path; None: as everything else finds it.

    Raises:
        UserError: a library is named and is not there.
    """
    from lccl.backends.tensorrt.library import HOW_TO_GET, LIBRARY, find_plugin
    from lccl.files import sha256

    path = find_plugin(library)
    said: dict[str, Any] = {"lccl": __version__, "library": str(path) if path else None}
    if path is None:
        said["missing"] = f"there is no {LIBRARY}: {HOW_TO_GET}"
    else:
        said |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    said["fix"] = HOW_TO_GET
    said["how_to_install"] = how_to_install("tensorrt")
    said["registries"] = [_registry(name, path) for name in MODULES if is_installed(name)]
    return said


def is_installed(name: str) -> bool:
    """Return whether a module is installed, without importing it."""
    return find_spec(name) is not None


def _registry(name: str, library: Path | None) -> dict[str, Any]:
    """Return what one TensorRT says to the plugin."""
    from lccl.backends.tensorrt.library import load_plugin

    try:
        trt = importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return {"module": name, "version": None, "holds_plugin": False, "reason": first_line(error)}
    said: dict[str, Any] = {"module": name, "version": trt.__version__, "holds_plugin": False, "reason": "no library"}
    if library is not None:
        try:
            load_plugin(library, tensorrt=trt)
            said |= {"holds_plugin": True, "reason": ""}
        except UserError as error:
            said["reason"] = error.message
    return said
