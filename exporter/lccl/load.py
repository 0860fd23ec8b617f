"""Model files -> networks, without running code that a file brings along."""

from __future__ import annotations

import _compat_pickle
import contextlib
import importlib
import os
import pickletools
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lccl.checkpoint import COMMAND, PYTHON, RECIPE_KEY, Checkpoint, Options, read_checkpoint
from lccl.errors import UserError, first_line
from lccl.files import require_file
from lccl.text import kind_of

if TYPE_CHECKING:
    import onnx
    from torch import nn
    from torch.export import ExportedProgram

    from lccl.weights import WeightFile

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
TRUSTED_FACTORIES = ("lccl.models.resnet:cifar_resnet",)
"""A file may name one of exactly these as its factory; any other has to be named by the caller."""
_WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LCCLConv")
_VARIANCE = 4
"""Its place among the inputs of a BatchNormalization."""
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose package has another name."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode and what its file says of its input."""

    module: nn.Module
    source: str
    input_shape: tuple[int, ...] | None
    """(C, H, W), where the checkpoint says so."""
    program: ExportedProgram | None = None
    """Where the file is a torch.export archive: what ``module`` was made of."""


def load_model(
    path: str | Path,
    factory: str | Callable[[], Any] | None = None,
    *,
    state_dict_key: str | None = None,
    unsafe_pickle: bool = False,
    options: Options = COMMAND,
) -> LoadedModel:
    """A checkpoint -> its network with the weights in it, in eval mode.

    Args:
        factory: "pkg.module:callable", or the callable, that builds the network; needed unless the checkpoint names one of lccl's own.
            It builds the dense network where the checkpoint says what to gate in it.
        state_dict_key: which entry of a nested checkpoint is the state dict.
        unsafe_pickle: allow a pickled module, a torch.export archive or TorchScript, which run code from the file.
        options: how messages name these arguments.

    Raises:
        UserError: whatever the caller can mend; the message says how.
    """
    from torch import nn

    source = require_file(path)
    content = _read_torch_file(source, unsafe_pickle, options)
    if (isinstance(content, nn.Module) or _is_program(content)) and (factory or state_dict_key):
        raise UserError(f"{source} is a whole pickled module: leave out the factory and {options.key}")
    if _is_program(content):
        _require_no_nan(content.state_dict, source)
        return LoadedModel(content.module(), str(source), None, content)
    if isinstance(content, nn.Module):
        _require_no_nan(content.state_dict(), source)
        _require_sound(content, source)
        return LoadedModel(content.eval(), str(source), None)
    checkpoint = read_checkpoint(content, source, state_dict_key, options)
    _require_no_nan(checkpoint.state_dict, source)
    module = _build(checkpoint, factory, source, options)
    if checkpoint.recipe:
        _gate(module, checkpoint.recipe, source)
    _load_weights(module, checkpoint.state_dict, source, _title(factory or checkpoint.factory or ""))
    _require_sound(module, source)
    return LoadedModel(module.eval(), str(source), checkpoint.input_shape)


def load_checkpoint(
    path: str | Path,
    factory: str | Callable[[], Any] | None = None,
    *,
    state_dict_key: str | None = None,
    unsafe_pickle: bool = False,
) -> nn.Module:
    """The network of a checkpoint in eval mode; one that :func:`save_checkpoint` wrote names its factory, to be confirmed here.

    Args:
        factory, state_dict_key, unsafe_pickle: as of :func:`load_model`.

    Raises:
        UserError: the file cannot be read, names no network, or does not fit it.
    """
    return load_model(path, factory, state_dict_key=state_dict_key, unsafe_pickle=unsafe_pickle, options=PYTHON).module


def load_onnx(path: str | Path, weights: WeightFile | None = None) -> onnx.ModelProto:
    """An ONNX file with its external data.

    Args:
        weights: takes the large weights, so that the model is small.

    Raises:
        UserError: no such file, or not an ONNX model.
    """
    source = require_file(path)
    with _reading_onnx(source):
        import onnx

        model = onnx.load(str(source), load_external_data=weights is None)
        if weights is not None:
            model = weights.slim(model, source.parent)
    if not model.HasField("graph") or not model.graph.node:
        raise UserError(f"{source} is not an ONNX model, or it is cut off (no graph in it): export or copy it again")
    _require_sound_weights(model, source)
    return model


def onnx_structure(path: str | Path) -> onnx.ModelProto:
    """An ONNX file without the weights that lie beside it.

    Raises:
        UserError: no such file, or not an ONNX model.
    """
    source = require_file(path)
    with _reading_onnx(source):
        import onnx

        return onnx.load(str(source), load_external_data=False)


def files_of_onnx(path: str | Path) -> frozenset[Path]:
    """An ONNX file and those with its external data.

    Raises:
        UserError: no such file, or not an ONNX model.
    """
    source = Path(path).resolve()
    entries = (e for tensor in onnx_structure(path).graph.initializer for e in tensor.external_data if e.key == "location")
    return frozenset({source, *((source.parent / e.value).resolve() for e in entries)})


@contextlib.contextmanager
def _reading_onnx(source: Path) -> Iterator[None]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        yield
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{source} is not an ONNX model, or it is cut off ({first_line(error)}): export or copy it again"
        ) from None
    except (onnx.checker.ValidationError, OSError) as error:
        raise UserError(
            f"{source} refers to weights that are not beside it ({first_line(error)}): copy its data file along"
        ) from None


def _require_sound_weights(model: onnx.ModelProto, path: Path) -> None:
    """Weights without NaN or infinity; other constants without NaN: some networks have infinite ones, such as masks."""
    import numpy as np
    import onnx

    from lccl.weights import array

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED_OPS for name in node.input[1:]}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    variances = {name for node in norms for name in node.input[_VARIANCE : _VARIANCE + 1]}
    for tensor in model.graph.initializer:
        if tensor.data_type in floats:
            values = array(tensor)
            if np.isnan(values).any():
                raise _bad_weight(path, tensor.name, "NaN")
            if tensor.name in weights and np.isinf(values).any():
                raise _bad_weight(path, tensor.name, "infinity")
            if tensor.name in variances and (values < 0).any():
                raise _bad_weight(path, tensor.name, "a variance below 0")


def _bad_weight(path: Path, name: str, what: str) -> UserError:
    return UserError(f"{path}: {name} holds {what}; the training went wrong, take an earlier checkpoint")


def import_object(name: str, what: str) -> Any:
    """ "pkg.module:attribute" -> the object, looked up in the installed packages and the current folder.

    Args:
        what: what the object is to be, for messages: "factory", "loader".

    Raises:
        UserError: a malformed name, no such module or attribute, or a module that raises on import.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"a {what} is named pkg.module:callable, not {name!r}")
    try:
        with _current_folder_last():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(_not_found(module_name, error.name)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit too: the module must not choose this program's exit code
        raise UserError(f"importing {module_name} raised {type(error).__name__}: {first_line(error)}") from error
    try:
        value = module
        for part in attribute.split("."):
            value = getattr(value, part)
    except AttributeError:
        raise UserError(f"module {module_name} has no {attribute!r}") from None
    return value


def _not_found(module: str, missing: str | None) -> str:
    """What to do where a module, or one that it imports, is not there."""
    if missing is None or f"{module}.".startswith(f"{missing}."):
        return f"cannot import {module}: run from the folder it is in, or install it"
    top = missing.partition(".")[0]
    fix = f"pip install {_PACKAGES[top]}" if top in _PACKAGES else "install the package that has it, or run from its folder"
    return f"{module} needs {missing}, which is not installed: {fix}"


@contextlib.contextmanager
def _current_folder_last() -> Iterator[None]:
    """The current folder importable within the block, behind everything installed, so that no file in it hides a package."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _read_torch_file(path: Path, unsafe_pickle: bool, options: Options) -> Any:
    import torch

    kind = _sniff(path)
    pass_factory = f"pass {options.factory.format('pkg.module:factory')}"
    if kind in ("torchscript", "pt2"):
        what = "TorchScript" if kind == "torchscript" else "a torch.export archive"
        if unsafe_pickle:
            return _read_program(path, kind, what)
        raise UserError(
            f"{path} is {what}, which can run code from the file: save model.state_dict() and {pass_factory}, or, if you "
            f"trust the file, pass {options.unsafe}"
        )
    broken = UserError(f"{path} is not a PyTorch checkpoint, or it is cut off: save or copy it again")
    if kind == "broken":
        raise broken
    try:
        with warnings.catch_warnings(), _current_folder_last() if unsafe_pickle else contextlib.nullcontext():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except Exception as error:
        classes = [] if unsafe_pickle else _pickled_classes(path)
        if classes:
            raise UserError(
                f"{path} holds pickled code, which loading would run: {', '.join(classes)}; save model.state_dict() "
                f"alone and {pass_factory}, or, if you trust the file, pass {options.unsafe}"
            ) from None
        if unsafe_pickle and isinstance(error, (AttributeError, ImportError)):
            raise UserError(
                f"{path} needs classes that cannot be imported here ({first_line(error)}): run in the folder of that module, or put it on PYTHONPATH"
            ) from None
        raise broken from None


def _read_program(path: Path, kind: str, what: str) -> Any:
    """A network that carries its own code. The caller has said that the file is trusted."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "pt2":
                return torch.export.load(str(path))
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UserError(
            f"{path} is {what} that this PyTorch cannot read ({first_line(error)}): write it again with this version"
        ) from None


def _is_program(content: Any) -> bool:
    from torch.export import ExportedProgram

    return isinstance(content, ExportedProgram)


def _sniff(path: Path) -> str:
    """What kind of torch file it is: an archive by its members, or a bare pickle, which only the unpickler can tell."""
    if not zipfile.is_zipfile(path):
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


def _pickled_classes(path: Path) -> list[str]:
    """The classes and functions that unpickling the file would call; empty where it holds none or cannot be read."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        return _pickled_globals(path)
    return sorted(names)


def _pickled_globals(path: Path) -> list[str]:
    """As :func:`_pickled_classes` for a stream of pickles (torch's old format), read opcode by opcode, nothing run."""
    from torch import _weights_only_unpickler as unpickler

    found: set[str] = set()
    with path.open("rb") as stream, contextlib.suppress(Exception):
        while True:
            _collect_globals(stream, found)
    allowed = {**unpickler._get_allowed_globals(), **unpickler._get_user_allowed_globals()}  # type: ignore[no-untyped-call]
    return sorted(found - set(allowed))


def _collect_globals(stream: IO[bytes], found: set[str]) -> None:
    """Adds the names that one pickle looks up, those that it memoised earlier too."""
    strings: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if argument is None else int(argument)] = top
            continue
        if name == "GLOBAL":
            found.add(_modern_name(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL" and len(strings) >= 2:
            found.add(_modern_name(*strings[-2:]))
        top = memo.get(int(argument)) if name.endswith("GET") and argument is not None else None
        if isinstance(argument, str) and name != "GLOBAL" and "PERSID" not in name:
            top = argument
        if top is not None:
            strings.append(top)


def _modern_name(module: str, name: str) -> str:
    """A global under the name that Python 3 has for it, as the unpickler reads it."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _title(factory: str | Callable[[], Any]) -> str:
    return factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))


def _build(checkpoint: Checkpoint, factory: str | Callable[[], Any] | None, path: Path, options: Options) -> nn.Module:
    from torch import nn

    chosen = factory or checkpoint.factory
    if chosen is None:
        asked = options.factory.format("pkg.module:factory")
        raise UserError(f"{path} holds weights but not the network: pass {asked}, a function that builds it")
    name = _title(chosen)
    if not factory and name not in TRUSTED_FACTORIES:
        raise UserError(f"{path} asks to run {name}; if you trust it, say so: {options.factory.format(name)}")
    kwargs = dict(checkpoint.kwargs) if chosen == checkpoint.factory else {}
    build: Callable[..., Any] = import_object(chosen, "factory") if isinstance(chosen, str) else chosen
    if not callable(build):
        raise UserError(f"{name} is not callable; a factory is a function or class that builds the network")
    try:
        module = build(**kwargs)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a SystemExit too: the factory must not choose this program's exit code
        raise UserError(f"the factory {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"the factory {name} returned {kind_of(module)}, not an nn.Module")
    return module


def _gate(module: nn.Module, recipe: Sequence[Any], path: Path) -> None:
    """Gates the factory's network as the checkpoint says."""
    from lccl.nn import apply_recipe

    try:
        apply_recipe(module, recipe)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _load_weights(module: nn.Module, state: Mapping[str, Any], path: Path, factory: str) -> None:
    own = module.state_dict()
    state = _without_prefixes(state, own)
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    if missing or unexpected:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        lost = any(k.endswith(".gate.conv.weight") for k in unexpected)
        hint = f"save lccl.nn.recipe(model) as {RECIPE_KEY} beside them" if lost else "is it the right factory?"
        raise UserError(f"the weights in {path} do not fit {factory}: {' and '.join(parts)} keys; {hint}")
    wrong = [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        k = wrong[0]
        raise UserError(
            f"the weights in {path} do not fit {factory}: {k} is {list(state[k].shape)} in the file and "
            f"{list(own[k].shape)} in the network ({len(wrong)} such tensors); is it the right factory?"
        )
    module.load_state_dict(state)


def _without_prefixes(state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the prefixes that DataParallel and torch.compile put before every key, where the network has none of them."""
    prefixes = ("module.", "_orig_mod.")
    while set(state) != set(own):
        prefix = next((p for p in prefixes if state and all(k.startswith(p) for k in state)), None)
        if prefix is None or any(k.startswith(prefix) for k in own):
            break
        state = {k[len(prefix) :]: v for k, v in state.items()}
    return state


def _require_no_nan(state: Mapping[str, Any], path: Path) -> None:
    import torch

    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise _bad_weight(path, name, "NaN")


def _require_sound(module: nn.Module, path: Path) -> None:
    from lccl.torch_calls import unsound_weight

    broken = unsound_weight(module)
    if broken is not None:
        raise UserError(f"{path}: {broken}; the training went wrong, take an earlier checkpoint")
