"""The TensorRT plugin of ``lccl::LCCLConv``: where its library is, and how TensorRT gets it."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from types import ModuleType

from lccl.backends.native import FOLDER, find_native, require_native
from lccl.errors import UserError, first_line
from lccl.errors.arguments import FILE, NONE, takes
from lccl.errors.requires import how_to_install
from lccl.files import require_file
from lccl.op.contract import OP_TYPE, VERSION

LIBRARY = "liblccl_trt_plugin.so"
ENVIRONMENT = "LCCL_TRT_PLUGIN"
PACKAGED = FOLDER / LIBRARY
_loaded: dict[str, Path] = {}
"""TensorRT's module -> the library that its registry holds: a registry keeps the first creator of a
name."""
HOW_TO_GET = "build it with lccl-build-plugin"


def find_plugin(library: str | Path | None = None) -> Path | None:
    """Find the plugin's library.

    It is the given one, else the one that LCCL_TRT_PLUGIN names, else the package's own.

    Returns:
        The library's path; None if there is none.

    Raises:
        UserError: a library is named and is not there.
    """
    return find_native(library, ENVIRONMENT, PACKAGED)


def plugin_path() -> Path:
    """Path of the plugin's library, as trtexec takes it for its dynamic plugins.

    Raises:
        UserError: there is none.
    """
    return require_native(find_plugin(), LIBRARY, HOW_TO_GET, ENVIRONMENT)


@takes(library=FILE | NONE)
def load_plugin(library: str | Path | None = None, *, tensorrt: ModuleType | None = None) -> Path:
    """Register the plugin with TensorRT in this process, to build engines with it and to run them.

    Args:
        library: the plugin's library; by default :func:`plugin_path`.
        tensorrt: TensorRT's Python module; by default ``tensorrt``.

    Returns:
        The library's path.

    Raises:
        UserError: there is no library or no TensorRT, or TensorRT refuses the library.
    """
    path = plugin_path() if library is None else require_file(library).absolute()
    trt = _import_tensorrt() if tensorrt is None else tensorrt
    if "rtx" in trt.__name__:
        raise UserError("TensorRT for RTX has no plugins: it runs the op as standard ops")
    registry = trt.get_plugin_registry()
    before = _loaded.get(trt.__name__)
    if before is not None and before != path.resolve():
        raise UserError(f"TensorRT has the plugin {before} in this process already: use {path} in another process")
    if registry.get_creator(OP_TYPE, str(VERSION), "") is None:
        registry.load_library(str(path))
    if registry.get_creator(OP_TYPE, str(VERSION), "") is None:
        raise UserError(f"TensorRT {trt.__version__} does not take the plugin {path}: {_why_not(path)}")
    _loaded[trt.__name__] = path.resolve()
    return path


def _why_not(path: Path) -> str:
    """What is wrong with a library that a registry has refused."""
    try:
        found = hasattr(ctypes.CDLL(str(path)), "getCreators")
    except OSError as error:
        return f"it cannot be loaded ({first_line(error)}); {HOW_TO_GET}"
    return f"was it built for this machine? {HOW_TO_GET}" if found else f"it is another library; {HOW_TO_GET}"


def _import_tensorrt() -> ModuleType:
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError):
        raise UserError(f"TensorRT is not installed: {how_to_install('tensorrt')}, or give its module as tensorrt=") from None
