"""Torch files: networks from checkpoints, without running code that a file contains."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.errors import Fix, UserError, first_line, leave_out
from lccl.errors.arguments import FACTORY, FILE, FLAG, NAME, NONE, takes
from lccl.files import require_file
from lccl.loading.checkpoint import FORMAT, read_checkpoint, set_thresholds
from lccl.loading.factory import build_module, gate_module, label_of
from lccl.loading.importing import current_folder_last
from lccl.loading.pickle_scan import pickled_classes
from lccl.loading.safetensors_file import SUFFIX, is_safetensors, read_safetensors
from lccl.loading.soundness import require_no_nan, require_sound
from lccl.loading.state_dict import Weights, load_weights
from lccl.loading.types import Factory

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".pt2", ".safetensors")


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode, and the input shape that its file states."""

    module: nn.Module
    source: str
    input_shape: tuple[int, ...] | None
    """(C, H, W) of one input; None if the file does not state it."""
    program: ExportedProgram | None = None
    """The exported program that ``module`` comes from, if the file is a torch.export archive."""
    factory: str | None = None
    """The factory that the file names."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What the file has for its factory."""


@takes(path=FILE, factory=FACTORY | NONE, state_dict_key=NAME | NONE, state_dict_prefix=NAME | NONE, unsafe_pickle=FLAG)
def load_model(
    path: str | Path,
    factory: Factory | None = None,
    *,
    state_dict_key: str | None = None,
    state_dict_prefix: str | None = None,
    unsafe_pickle: bool = False,
    option_prefix: str = "",
) -> LoadedModel:
    """Load the network of a torch file, with its weights, in eval mode.

    Args:
        path: the file.
        factory: "pkg.module:callable", or the callable itself, that builds the network; needed
            unless the checkpoint names one of lccl's own. Where the checkpoint has a recipe, it
            builds the dense network.
        state_dict_key: the key of the state dict in a nested checkpoint.
        state_dict_prefix: what the names of the network's weights begin with, such as "model.",
            where the state dict has others beside them. Without it, the prefixes of wrappers are
            found.
        unsafe_pickle: allow a pickled module, a torch.export archive or TorchScript, which run code
            from the file.
        option_prefix: what the caller's own keywords for the factory and the key begin with, for
            messages, such as "baseline_".

    Raises:
        UserError: the file cannot be read, names no network, does not fit it, or has unsound
            weights.
    """
    from torch import nn

    from lccl.torch_calls import unwrapped

    source = require_file(path)
    factory_option, key_option, prefix_option = (
        f"{option_prefix}{name}" for name in ("factory", "state_dict_key", "state_dict_prefix")
    )
    content = _read_torch_file(source, unsafe_pickle, factory_option)
    if isinstance(content, nn.Module) or _is_program(content):
        options = ((factory_option, factory), (key_option, state_dict_key), (prefix_option, state_dict_prefix))
        _require_none_of([name for name, value in options if value is not None], source)
    if _is_program(content):
        require_no_nan(content.state_dict, source)
        return LoadedModel(content.module(), str(source), None, content)
    if isinstance(content, nn.Module):
        require_no_nan(content.state_dict(), source)
        require_sound(content, source)
        return LoadedModel(unwrapped(content).eval(), str(source), None)
    checkpoint = read_checkpoint(content, source, state_dict_key, key_option)
    require_no_nan(checkpoint.state_dict, source)
    module = build_module(checkpoint, factory, source, factory_option)
    if checkpoint.recipe:
        gate_module(module, checkpoint.recipe, source, state_dict_prefix)
    label, gated = label_of(factory or checkpoint.factory or ""), bool(checkpoint.recipe)
    load_weights(module, Weights(checkpoint.state_dict, source, label, gated, state_dict_prefix, prefix_option))
    require_sound(module, source)
    if checkpoint.densities:
        from lccl.nn.densities import set_trained_densities

        set_trained_densities(module, checkpoint.densities)
    if checkpoint.thresholds:
        set_thresholds(module, checkpoint.thresholds, source)
    return LoadedModel(module.eval(), str(source), checkpoint.input_shape, factory=checkpoint.factory, kwargs=checkpoint.kwargs)


def load_checkpoint(
    path: str | Path,
    factory: Factory | None = None,
    *,
    state_dict_key: str | None = None,
    state_dict_prefix: str | None = None,
    unsafe_pickle: bool = False,
) -> nn.Module:
    """Load the network of a checkpoint, with its weights, in eval mode.

    Args:
        path: the file.
        factory: "pkg.module:callable", or the callable itself, that builds the network (the dense
            one, where the checkpoint has a recipe). A checkpoint of :func:`save_checkpoint` names
            its factory; one that is not lccl's own must be repeated here.
        state_dict_key: the key of the state dict in a nested checkpoint.
        state_dict_prefix: what the names of the network's weights begin with, such as "model.",
            where the state dict has others beside them. Without it, the prefixes of wrappers are
            found.
        unsafe_pickle: allow a pickled module, a torch.export archive or TorchScript, which run code
            from the file.

    Raises:
        UserError: the file cannot be read, names no network, does not fit it, or has unsound
            weights.
    """
    loaded = load_model(
        path,
        factory,
        state_dict_key=state_dict_key,
        state_dict_prefix=state_dict_prefix,
        unsafe_pickle=unsafe_pickle,
    )
    return loaded.module


def _require_none_of(given: list[str], path: Path) -> None:
    """Check that nothing is given that only a checkpoint takes.

    Raises:
        UserError: something is.
    """
    if given:
        raise UserError(f"{path} is a whole pickled module, with its code and its weights", map(leave_out, given))


def _read_torch_file(path: Path, unsafe_pickle: bool, factory_option: str) -> Any:
    import torch

    kind = _sniff(path)
    fixes = (
        Fix(factory_option, "pkg.module:factory", "with a file of model.state_dict() alone"),
        Fix("unsafe_pickle", True, "if you trust the file"),
    )
    if kind in ("torchscript", "pt2"):
        what = "TorchScript" if kind == "torchscript" else "a torch.export archive"
        if unsafe_pickle:
            from lccl.nn.program_file import read_program

            return read_program(path, what, archive=kind == "pt2")
        raise UserError(f"{path} is {what}, which can run code from the file", fixes)
    if kind == "safetensors":
        return read_safetensors(path, FORMAT)
    broken = UserError(f"{path} is not a PyTorch checkpoint, or it is cut off: save or copy it again")
    if kind == "broken":
        raise broken
    try:
        folder = current_folder_last() if unsafe_pickle else contextlib.nullcontext()
        with warnings.catch_warnings(), folder, path.open("rb") as stream:  # by a path, the name decides the format
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=not unsafe_pickle)
    except Exception as error:
        classes = [] if unsafe_pickle else pickled_classes(path)
        if classes:
            raise UserError(f"{path} holds pickled code ({', '.join(classes)}), which loading would run", fixes) from None
        if unsafe_pickle and isinstance(error, (AttributeError, ImportError)):
            raise UserError(
                f"{path} needs classes that cannot be imported here ({first_line(error)}): run in the folder of that module, or put it on PYTHONPATH"
            ) from None
        raise broken from None


def _is_program(content: Any) -> bool:
    from torch.export import ExportedProgram

    return isinstance(content, ExportedProgram)


def _sniff(path: Path) -> str:
    """Return the kind of torch file: of an archive by its members.

    A bare pickle is left to the unpickler.
    """
    if not zipfile.is_zipfile(path):
        if path.suffix == SUFFIX or is_safetensors(path):
            return "safetensors"
        with path.open("rb") as stream:
            return "broken" if stream.read(2) == b"PK" else "legacy"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "broken"
    if any(name.endswith("/archive_format") or name == "archive_format" for name in names):
        return "pt2"
    return "torchscript" if any("/code/" in name for name in names) else "pickle"
