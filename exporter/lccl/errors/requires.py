"""Which package belongs to which extra, and the sentence for one that is not installed.

The base install opens sessions: NumPy, onnx, ONNX Runtime. Everything else comes with an extra.
This module imports nothing of others, so that ``import lccl`` stays light.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from lccl.errors import UserError


@dataclass(frozen=True)
class Package:
    """A package that an extra brings."""

    label: str
    """Its name for people."""
    distribution: str
    """Its name for pip, as pyproject.toml has it."""
    extras: tuple[str, ...]
    """Those that bring it; any one will do."""


PACKAGES = {
    "torch": Package("PyTorch", "torch", ("export", "train")),
    "lightning_fabric": Package("Lightning Fabric", "lightning-fabric", ("fit",)),
    "PIL": Package("Pillow", "pillow", ("train",)),
    "jinja2": Package("Jinja2", "jinja2", ("train",)),
    "matplotlib": Package("matplotlib", "matplotlib", ("train",)),
    "onnx_graphsurgeon": Package("onnx-graphsurgeon", "onnx-graphsurgeon", ("export", "rtx", "trt")),
    "onnxscript": Package("onnxscript", "onnxscript", ("export",)),
    "onnxconverter_common": Package("onnxconverter-common", "onnxconverter-common", ("rtx", "trt")),
    "polygraphy": Package("Polygraphy", "polygraphy", ("rtx", "trt")),
    "safetensors": Package("safetensors", "safetensors", ("export", "train")),
    "tensorboardX": Package("tensorboardX", "tensorboardX", ("fit",)),
    "tensorrt": Package("TensorRT", "tensorrt", ("trt",)),
    "tensorrt_rtx": Package("TensorRT for RTX", "tensorrt-rtx-cu13", ("rtx",)),
}
"""By the module that is imported. A test holds them against pyproject.toml."""


@dataclass(frozen=True)
class Need:
    """What a public name or a command cannot do without."""

    modules: tuple[str, ...]
    """The one that users know best comes first: it is the one that a message names."""
    extras: tuple[str, ...]
    """The extras to install for it, of which any one will do."""


_EXPORT = Need(("torch", "onnx_graphsurgeon", "onnxscript"), ("export",))
_ENGINE = Need(("onnx_graphsurgeon",), ("rtx", "trt"))
_GRAPH = Need(("onnx_graphsurgeon",), ("export",))
_TORCH = Need(("torch",), ("train",))
NEEDS = {
    "export": _EXPORT,
    "ExportResult": _GRAPH,
    "compare": _EXPORT,
    "Comparison": _GRAPH,
    "LatencyPlan": _GRAPH,
    "Limits": _GRAPH,
    "profile": Need(("torch",), ("export",)),
    "build_engine": _ENGINE,
    "EngineResult": _ENGINE,
    "load_checkpoint": _TORCH,
    "save_checkpoint": _TORCH,
    "nn": _TORCH,
    "tune": Need(("torch",), ("train",)),
    "measure": _GRAPH,
    "inspect": _GRAPH,
    "Inspection": _GRAPH,
    "TuneResult": Need(("torch",), ("train",)),
    "train": _TORCH,
    "warm_up": _TORCH,
    "WarmUp": _TORCH,
}
"""By the part of ``lccl.<name>`` or ``lccl-<name>`` behind ``lccl``; what is not here needs no more
than the base install."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package that an extra brings is not installed.

    It is an ImportError too, so that ``except ImportError`` sees it.
    """


def how_to_install(module: str) -> str:
    """The command that brings a module: "pip install 'lccl[trt]'"."""
    return _command(PACKAGES[module].extras)


def require(what: str) -> None:
    """Check that what a public name or a command needs is installed, without importing it.

    Args:
        what: "lccl.export" or "lccl-export".

    Raises:
        MissingPackageError: one is not installed.
    """
    need = NEEDS.get(_key(what))
    missing = next((module for module in need.modules if _is_missing(module)), None) if need else None
    if missing is not None:
        raise _missing(missing, what)


def is_ready(what: str) -> bool:
    """Whether the packages of :func:`require` are installed."""
    need = NEEDS.get(_key(what))
    return need is None or not any(map(_is_missing, need.modules))


def as_missing_package(error: BaseException, what: str) -> MissingPackageError | None:
    """The error of an import, as the sentence that says which extra ``what`` needs.

    None for every other error.

    A package that no extra brings, and a part of one that is installed, stay errors of the import.

    Args:
        what: who needs it: "lccl-export", "lccl.export", "an engine".
    """
    if not isinstance(error, ModuleNotFoundError) or error.name not in PACKAGES or not _is_missing(error.name):
        return None
    need = NEEDS.get(_key(what))
    if need and error.name in need.modules:
        return _missing(next(module for module in need.modules if _is_missing(module)), what)
    return _missing(error.name, what)


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Raise a :class:`MissingPackageError` for a package that the block needs and that is missing.

    :func:`as_missing_package` makes it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = as_missing_package(error, what)
        if missing is None:
            raise
        raise missing from None


def _key(what: str) -> str:
    return what.removeprefix("lccl").lstrip("-. ").replace("-", "_")


def _is_missing(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is None
    return find_spec(module) is None


def _missing(module: str, what: str) -> MissingPackageError:
    package, need = PACKAGES[module], NEEDS.get(_key(what))
    extras = tuple(extra for extra in need.extras if extra in package.extras) if need else ()
    error = MissingPackageError(f"{what} needs {package.label}: {_command(extras or package.extras)}")
    error.name = module
    return error


def _command(extras: tuple[str, ...]) -> str:
    first, *others = (f"'lccl[{extra}]'" for extra in extras)
    return f"pip install {first}" + "".join(f" or {other}" for other in others)
