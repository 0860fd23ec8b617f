"""Files and modules -> networks with a runner each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from lccl.backends.interface import Runner
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.checkpoint import COMMAND, DENSE
from lccl.comparing.results import Role
from lccl.data import Data
from lccl.engine.sidecar import read_sidecar
from lccl.errors import UserError
from lccl.files import require_file
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.loading.onnx import load_onnx
from lccl.loading.torch_file import TORCH_SUFFIXES, load_model
from lccl.op.onnx_op import is_lccl_node
from lccl.progress import Progress

if TYPE_CHECKING:
    from torch import nn

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Contestant:
    """A network in one runtime, not yet started."""

    network: str
    role: Role
    runner: Runner
    skipped: str | None = None
    proto: onnx.ModelProto | None = None
    """The ONNX model, where the runtime runs one."""
    optional: bool = False
    """Another way to run a network that also runs without it, so that limits can be held to the network where this is skipped."""


def open_networks(
    networks: Sequence[Any],
    role: Role,
    data: Data,
    factory: str | Callable[[], Any] | None,
    threads: int,
    twin: bool,
    progress: Progress,
    plugin: Path | None = None,
) -> list[Contestant]:
    """One contestant per file or module; a network given in PyTorch only is also exported and run in ONNX Runtime.

    Args:
        networks: ``.pt``, ``.onnx`` or ``.engine`` files, modules or ONNX models, all of the same network.
        twin: add the dense twin of an ONNX model with gates.
        plugin: the library for engines that need one.

    Raises:
        UserError: a file that cannot be read or is of no known kind.
    """
    if factory is not None and not any(isinstance(n, (str, Path)) and Path(n).suffix in TORCH_SUFFIXES for n in networks):
        raise UserError(f"a factory for the {role} network (--model, --dense-model) goes with a checkpoint, and none is named")
    found: list[Contestant] = []
    has_onnx = any(isinstance(n, onnx.ModelProto) or str(n).endswith(".onnx") for n in networks)
    for network in networks:
        progress(f"loading {_title(network, role)}")
        if isinstance(network, onnx.ModelProto):
            found += _of_onnx(network, role, role, threads, twin)
        elif isinstance(network, (str, Path)):
            path = require_file(network)
            if path.suffix in ENGINE_SUFFIXES:
                found.append(_of_engine(path, role, plugin))
            else:
                found += _of_file(path, role, factory, data, threads, twin, not has_onnx, progress)
        else:
            found += _of_module(network, role, role, data, threads, twin, not has_onnx, progress)
    return found


def _title(network: Any, role: Role) -> str:
    return Path(network).name if isinstance(network, (str, Path)) else f"the {role} network"


def _of_file(
    path: Path,
    role: Role,
    factory: str | Callable[[], Any] | None,
    data: Data,
    threads: int,
    twin: bool,
    to_onnx: bool,
    progress: Progress,
) -> list[Contestant]:
    if path.suffix in TORCH_SUFFIXES:
        module = load_model(path, factory, options=DENSE if role == "dense" else COMMAND).module
        return _of_module(module, path.name, role, data, threads, twin, to_onnx, progress)
    if path.suffix == ".onnx":
        return _of_onnx(load_onnx(path), path.name, role, threads, twin)
    raise UserError(f"{path}: a network is a .pt, .onnx or .engine file")


def _of_module(
    module: nn.Module, name: str, role: Role, data: Data, threads: int, twin: bool, to_onnx: bool, progress: Progress
) -> list[Contestant]:
    import torch

    from lccl.backends.torch.runner import TorchRunner
    from lccl.exporting.translate import to_onnx as translate
    from lccl.nn import LCCLConv2d, fold

    runner = TorchRunner(fold(module), threads)
    found = [Contestant(name, role, runner)]
    if role == "dense" and any(isinstance(m, LCCLConv2d) for m in module.modules()):
        raise UserError(f"{name} has gates, so it is no dense network: name it before --dense")
    if to_onnx:
        progress(f"exporting {name} for ONNX Runtime")
        feed = data.feed(runner.input_names, 0, 2)
        with runner:
            runner.infer(feed)
        proto = translate(module, [torch.from_numpy(v) for v in feed.values()])
        found += _of_onnx(proto, name, role, threads, twin)
    return found


def _of_onnx(proto: onnx.ModelProto, name: str, role: Role, threads: int, twin: bool) -> list[Contestant]:
    gated = any(is_lccl_node(n) for n in proto.graph.node)
    if role == "dense" and (gated or _is_decomposed(proto)):
        raise UserError(f"{name} has gates, so it is no dense network: name it before --dense")
    if gated:
        proto = canonical(proto)
    elif role == "lccl" and not _is_decomposed(proto):
        raise UserError(f"{name} has no LCCLConv node; export it with lccl-export, or name it with --dense")
    found = [Contestant(name, role, OnnxRuntimeRunner(proto, threads), proto=proto)]
    if gated:
        found.append(_with_library(proto, name, role, threads))
    if gated and twin:
        dense = dense_twin(proto)
        found.append(Contestant(f"dense twin of {name}", "dense twin", OnnxRuntimeRunner(dense, threads), proto=dense))
    return found


def _with_library(proto: onnx.ModelProto, name: str, role: Role, threads: int) -> Contestant:
    """The model in ONNX Runtime with the CPU op, which skips closed pixels; not run where that is not here."""
    from lccl.backends.onnxruntime.library import LIBRARY, check_library

    library = check_library()
    runner = OnnxRuntimeRunner(proto, threads, library=library.path or LIBRARY)
    reason = library.reason
    if library:
        try:
            with runner:
                pass
        except UserError as error:  # a kernel that is too large, for one
            reason = str(error)
    return Contestant(name, role, runner, reason or None, proto, optional=True)


def _is_decomposed(proto: onnx.ModelProto) -> bool:
    """Whether the file is the LCCL network in standard ops, as ``lccl-export --decomposed`` writes it."""
    return any(p.key == "lccl.twin" and p.value == "decomposed" for p in proto.metadata_props)


def _of_engine(path: Path, role: Role, plugin: Path | None) -> Contestant:
    from lccl.backends.tensorrt.builder import import_tensorrt
    from lccl.backends.tensorrt.library import load_plugin
    from lccl.backends.tensorrt.runner import TensorRTRunner, gpu_missing

    sidecar = read_sidecar(path)

    def prepare() -> None:
        library = plugin_of(path, sidecar, plugin)
        if library is not None:
            load_plugin(library, tensorrt=import_tensorrt())

    return Contestant(path.name, role, TensorRTRunner(path, sidecar["backend"], prepare), gpu_missing())


def plugin_of(engine: Path, sidecar: Mapping[str, Any], given: Path | None) -> Path | None:
    """The library that an engine needs; None where it needs none. Never one that the side-car leads to: that would be
    code of whoever wrote the file.

    Raises:
        UserError: it is not here.
    """
    from lccl.backends.tensorrt.library import ENVIRONMENT, find_plugin

    recorded = sidecar.get("plugin")
    if recorded is None:
        return None
    library = find_plugin(given)
    if library is None:
        name = recorded.get("file") if isinstance(recorded, Mapping) else recorded
        raise UserError(
            f"{engine} needs the plugin {Path(str(name)).name}, which is not installed: name it with --plugin or {ENVIRONMENT}"
        )
    return library
