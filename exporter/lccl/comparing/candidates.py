"""Opening networks: files, modules and ONNX models -> candidates, each a network in one runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from lccl.backends.interface import Runner
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.comparing.results import Role
from lccl.console.progress import Progress
from lccl.engine.sidecar import read_sidecar
from lccl.errors import Fix, UserError, leave_out
from lccl.files import require_file
from lccl.graph.intake import intake, is_built
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.loading.data import Data
from lccl.loading.onnx import load_onnx
from lccl.loading.torch_file import TORCH_SUFFIXES, load_model
from lccl.loading.types import Factory, Network
from lccl.op.onnx_op import is_lccl_node

if TYPE_CHECKING:
    from torch import nn

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Candidate:
    """A network in one runtime, not yet started."""

    network: str
    role: Role
    runner: Runner
    skipped: str | None = None
    """Why it cannot run here."""
    proto: onnx.ModelProto | None = None
    """The ONNX model, where the runtime runs one."""
    optional: bool = False
    """Another way to run a network that also runs without it: limits can be checked on the network
    where this is skipped."""
    decisions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By layer, what the build of the file for ONNX Runtime chose, and why."""


@dataclass(frozen=True)
class Opening:
    """How the files and modules of one network are opened."""

    role: Role
    data: Data
    """For the export of a module, and the names of its inputs."""
    factory: Factory | None
    state_dict_key: str | None
    """The key of the state dict in a nested checkpoint."""
    state_dict_prefix: str | None
    """What the names of the network's weights begin with in a checkpoint."""
    unsafe_pickle: bool
    """Whether a checkpoint may run code from the file."""
    threads: int
    dense_twin: bool
    """Add the dense twin of an ONNX model with gates."""
    plugin_library: Path | None
    """The library for engines that need one."""
    progress: Progress

    @property
    def option_prefix(self) -> str:
        """What the keywords of this network alone begin with."""
        return "baseline_" if self.role == "baseline" else ""


def open_networks(networks: Sequence[Network], opening: Opening) -> list[Candidate]:
    """Open each file or module as candidates.

    A network that is given in PyTorch only is also exported, to run in ONNX Runtime.

    Args:
        networks: ``.pt``, ``.onnx`` or ``.engine`` files, modules or ONNX models, all of the same
            network.
        opening: how they are opened.

    Raises:
        UserError: a file that cannot be read or is of no known kind.
    """
    of_checkpoints = {
        "factory": "factory",
        "state_dict_key": "key of a state dict",
        "state_dict_prefix": "prefix of a state dict",
    }
    for name, what in of_checkpoints.items():
        if getattr(opening, name) is not None and not any(map(_is_torch_file, networks)):
            raise UserError(
                f"a {what} for the {opening.role} network needs a checkpoint, but none is given",
                leave_out(f"{opening.option_prefix}{name}"),
            )
    found: list[Candidate] = []
    to_onnx = not any(isinstance(n, onnx.ModelProto) or str(n).endswith(".onnx") for n in networks)
    for network in networks:
        opening.progress(f"loading {_label(network, opening.role)}")
        if isinstance(network, onnx.ModelProto):
            found += _of_onnx(network, opening.role, opening)
        elif isinstance(network, (str, Path)):
            found += _of_file(require_file(network), opening, to_onnx)
        else:
            found += _of_module(network, opening.role, opening, to_onnx)
    return found


def _is_torch_file(network: Network) -> bool:
    return isinstance(network, (str, Path)) and Path(network).suffix in TORCH_SUFFIXES


def _label(network: Network, role: Role) -> str:
    return Path(network).name if isinstance(network, (str, Path)) else f"the {role} network"


def _of_file(path: Path, opening: Opening, to_onnx: bool) -> list[Candidate]:
    if path.suffix in ENGINE_SUFFIXES:
        return [_of_engine(path, opening)]
    if path.suffix in TORCH_SUFFIXES:
        loaded = load_model(
            path,
            opening.factory,
            state_dict_key=opening.state_dict_key,
            state_dict_prefix=opening.state_dict_prefix,
            unsafe_pickle=opening.unsafe_pickle,
            option_prefix=opening.option_prefix,
        )
        return _of_module(loaded.module, path.name, opening, to_onnx, path)
    if path.suffix == ".onnx":
        return _of_onnx(load_onnx(path), path.name, opening, path)
    raise UserError(f"{path}: a network is a .pt, .onnx or .engine file")


def _of_module(module: nn.Module, name: str, opening: Opening, to_onnx: bool, file: Path | None = None) -> list[Candidate]:
    import torch

    from lccl.backends.torch.runner import TorchRunner
    from lccl.nn import LCCLConv2d, fold
    from lccl.nn.translate import to_onnx as translate

    runner = TorchRunner(fold(module), opening.threads, tuple(opening.data.inputs))
    found = [Candidate(name, opening.role, runner)]
    if opening.role == "baseline" and any(isinstance(m, LCCLConv2d) for m in module.modules()):
        raise _gated_baseline(name)
    if to_onnx:
        opening.progress(f"exporting {name} for ONNX Runtime")
        feed = opening.data.feed(runner.input_names, 0, 2)
        with runner:
            runner.infer(feed)
        proto = translate(module, [torch.from_numpy(v) for v in feed.values()], input_names=tuple(feed))
        found += _of_onnx(proto, name, opening, file)
    return found


def _of_onnx(proto: onnx.ModelProto, name: str, opening: Opening, file: Path | None = None) -> list[Candidate]:
    given, proto = proto, intake(proto)
    gated = any(is_lccl_node(n) for n in proto.graph.node)
    if opening.role == "baseline" and (gated or _is_decomposed(proto)):
        raise _gated_baseline(name)
    if gated:
        proto = canonical(proto)
    elif opening.role == "lccl" and not _is_decomposed(proto):
        raise UserError(
            f"{name if file else 'the network'} has no LCCLConv node, so it is not the LCCL network: export it, or compare with it as the baseline",
            Fix("baseline", str(file)) if file else (),
        )
    run = given if is_built(given) else proto
    decisions = _decisions(file) if file is not None and is_built(given) else {}
    found = [Candidate(name, opening.role, OnnxRuntimeRunner(run, opening.threads), proto=proto, decisions=decisions)]
    if gated or is_built(given):
        found.append(_with_library(run, proto, name, opening))
    if gated and opening.dense_twin:
        twin = dense_twin(proto)
        runner = OnnxRuntimeRunner(twin, opening.threads)
        found.append(Candidate(f"dense twin of {name}", "dense twin", runner, proto=twin))
    return found


def _gated_baseline(name: str) -> UserError:
    return UserError(f"{name} has gates, so it is not a dense network: give it among the files of the LCCL network")


def _with_library(run: onnx.ModelProto, proto: onnx.ModelProto, name: str, opening: Opening) -> Candidate:
    """The model in ONNX Runtime with the CPU op; a skipped candidate where the op is not here.

    Args:
        run: what ONNX Runtime opens.
        proto: the same, canonical.
        name: of the network.
        opening: its options.
    """
    from lccl.backends.onnxruntime.library import LIBRARY, check_library

    library = check_library()
    runner = OnnxRuntimeRunner(run, opening.threads, library=library.path or LIBRARY)
    reason = library.reason
    if library:
        try:
            with runner:
                pass
        except UserError as error:  # a kernel that is too large, for one
            reason = error.message
    return Candidate(name, opening.role, runner, reason or None, proto, optional=True)


def _decisions(file: Path) -> dict[str, Mapping[str, object]]:
    """What the side-car of a built file says of each layer; nothing where it is not there."""
    try:
        choice = read_sidecar(file).get("choice")
    except UserError:
        return {}
    layers = choice.get("layers") if isinstance(choice, Mapping) else None
    return (
        {str(row["name"]): row for row in layers if isinstance(row, Mapping) and "name" in row}
        if isinstance(layers, list)
        else {}
    )


def _is_decomposed(proto: onnx.ModelProto) -> bool:
    """Whether the file is the LCCL network in standard ops, the decomposed file of an export."""
    return any(p.key == "lccl.twin" and p.value == "decomposed" for p in proto.metadata_props)


def _of_engine(path: Path, opening: Opening) -> Candidate:
    from lccl.backends.tensorrt.builder import import_tensorrt
    from lccl.backends.tensorrt.library import load_plugin
    from lccl.backends.tensorrt.runner import TensorRTRunner, gpu_missing

    sidecar = read_sidecar(path)

    def prepare() -> None:
        library = plugin_of(path, sidecar, opening.plugin_library)
        if library is not None:
            load_plugin(library, tensorrt=import_tensorrt())

    return Candidate(path.name, opening.role, TensorRTRunner(path, str(sidecar["backend"]), prepare), gpu_missing())


def plugin_of(engine: Path, sidecar: Mapping[str, object], given: Path | None) -> Path | None:
    """The library that an engine needs; None if it needs none.

    The library is never one that the side-car leads to: that would run code of whoever wrote the
    file.

    Raises:
        UserError: the library is not here.
    """
    from lccl.backends.tensorrt.library import ENVIRONMENT, find_plugin

    recorded = sidecar.get("plugin")
    if recorded is None:
        return None
    library = find_plugin(given)
    if library is None:
        name = recorded.get("file") if isinstance(recorded, Mapping) else recorded
        raise UserError(
            f"{engine} needs the plugin {Path(str(name)).name}, which is not installed: name it in {ENVIRONMENT}",
            Fix("plugin_library", "PATH"),
        )
    return library
