"""State dicts of files into networks: PyTorch decides what fits, and names lose their wrappers."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.errors import Fix, UserError, first_line
from lccl.loading.checkpoint import RECIPE_KEY

if TYPE_CHECKING:
    from torch import nn

StateDict = Mapping[str, Any]
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Under these names DataParallel and averages, torch.compile and other wrappers hold a network."""
_MOST_ATTEMPTS = 8
"""Prefixes of a part of the names that are tried, the likeliest ones first."""


@dataclass(frozen=True)
class Weights:
    """The weights of a file, and the words for messages about them."""

    state_dict: StateDict
    path: Path
    factory: str
    """The factory's name."""
    has_recipe: bool
    """Whether the file says what to gate."""
    prefix: str | None = None
    """What the network's names begin with in the file, as the caller gave it; None: to be found."""
    prefix_option: str = "state_dict_prefix"
    """The keyword that a message names for the prefix."""

    @property
    def misfit(self) -> str:
        """The beginning of a message about weights that do not fit."""
        return f"the weights in {self.path} do not fit {self.factory}"


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Load weights into a network, as ``load_state_dict`` does.

    Names that wrappers changed are mended: of DataParallel, averages, torch.compile, Lightning and
    others, in any order. A prefix is taken by itself where it is the only one that makes the names
    fit, and all of them have it.

    Raises:
        UserError: PyTorch refuses the weights. The message says what differs, and names prefixes
            that would fit.
    """
    state = weights.state_dict
    if weights.prefix is not None:
        state = _given_part(state, weights.prefix, weights)
    if any(_refusal(module, form) is None for form in _forms(module, state)):
        return
    parts = [] if weights.prefix is not None else _fitting_parts(module, state)
    if parts:
        names = " and ".join(repr(prefix) for prefix in parts)
        few = [k for k, v in state.items() if not any(k.startswith(p) or _is_counter(k, v, p) for p in parts)]
        beside = f", beside {len(few)} of something else ({_some(few)})" if few else ""
        raise UserError(
            f"{weights.misfit} as they are named; those that begin with {names} do{beside}",
            [Fix(weights.prefix_option, prefix) for prefix in parts],
        )
    raise _explained(module, state, weights)


def matched_names(names: Sequence[str], known: Iterable[str], prefix: str | None = None) -> Callable[[str], str] | None:
    """Find how names of modules in a file become those of a network.

    Args:
        names: some of the file's names.
        known: all of the network's names.
        prefix: what the network's names begin with in the file; None: to be found.

    Returns:
        The mapping of one name; None where no prefix and no removal of wrappers makes all fit.
    """
    wanted = set(known)
    plain = _by_plain_name(wanted)
    starts = ["", *_prefixes(names[0])] if names else [""]
    for start in starts if prefix is None else ["", prefix]:
        for wrappers in (False, True):

            def mapped(name: str, start: str = start, wrappers: bool = wrappers) -> str:
                short = name.removeprefix(start)
                return plain.get(_plain(short), _plain(short)) if wrappers else short

            if all(name.startswith(start) and mapped(name) in wanted for name in names):
                return mapped
    return None


def _forms(module: nn.Module, state: StateDict) -> Iterator[StateDict]:
    """The state dict as it is and, where it differs, without what wrappers put before its names."""
    own = module.state_dict()
    for prefix in ("", *_common_prefixes(state)):
        form = _without_prefix(state, prefix) if prefix else state
        yield form
        bare = _without_wrappers(form, own)
        if list(bare) != list(form):
            yield bare


def _takes_strict(module: nn.Module) -> bool:
    """Return whether the network's ``load_state_dict``, which may be its own, can be lenient."""
    parameters = inspect.signature(module.load_state_dict).parameters.values()
    return any(p.name == "strict" or p.kind is p.VAR_KEYWORD for p in parameters)


def _refusal(module: nn.Module, state: StateDict) -> tuple[list[str], list[str], str] | None:
    """Load the state dict; None, or the missing and unexpected keys and PyTorch's own words."""
    try:
        if not _takes_strict(module):
            module.load_state_dict(state)
            return None
        found = module.load_state_dict(state, strict=False)
        if found is None:  # a method of the network's own; PyTorch's says what did not fit
            module.load_state_dict(state)
            return None
    except Exception as error:  # a network's own hooks may raise anything
        said = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
        torchs_own = isinstance(error, RuntimeError) and len(said) > 1 and said[0].startswith("Error(s) in loading")
        return [], [], said[1] if torchs_own else f"{type(error).__name__}: {first_line(error)}"
    missing, unexpected = list(found.missing_keys), list(found.unexpected_keys)
    return (missing, unexpected, "") if missing or unexpected else None


def _explained(module: nn.Module, state: StateDict, weights: Weights) -> UserError:
    """The error for weights that PyTorch refuses, told of the form that fits best."""
    own = module.state_dict()
    state = max(_forms(module, state), key=lambda form: sum(key in own for key in form))
    wrong = [key for key in own if key in state and _shape(own[key]) != _shape(state[key])]
    loadable = _renamed(state, {key: key for key in state if key not in wrong})
    missing, unexpected, reason = _refusal(module, loadable) or ([], [], "")
    missing = [key for key in missing if key not in wrong]
    if missing or unexpected:
        found = ((missing, "missing"), (unexpected, "unexpected"))
        parts = [f"{len(keys)} {what} ({_some(keys)})" for keys, what in found if keys]
        lost = not weights.has_recipe and any(key.endswith(".gate.conv.weight") for key in unexpected)
        hint = f"save lccl.nn.recipe(model) as {RECIPE_KEY} beside them" if lost else "is it the right factory?"
        return UserError(f"{weights.misfit}: {' and '.join(parts)} keys; {hint}")
    if wrong:
        key = wrong[0]
        return UserError(
            f"{weights.misfit}: {key} is {_shape(state[key])} in the file and {_shape(own[key])} in the network "
            f"({len(wrong)} such tensors); is it the right factory?"
        )
    return UserError(f"{weights.misfit}: {reason}")


def _given_part(state: StateDict, prefix: str, weights: Weights) -> StateDict:
    """The part of the state dict under a prefix that the caller gave.

    Raises:
        UserError: no key begins with it.
    """
    if not any(key.startswith(prefix) for key in state):
        starts = dict.fromkeys(next(_prefixes(key), key) for key in state)
        raise UserError(
            f"no name of the weights in {weights.path} begins with {prefix!r}; they begin with {_some(list(starts))}"
        )
    if prefix and not prefix.endswith(".") and all(k.startswith(f"{prefix}.") for k in state if k.startswith(prefix)):
        prefix += "."
    return _without_prefix(state, prefix) if prefix else state


def _fitting_parts(module: nn.Module, state: StateDict) -> list[str]:
    """The prefixes of a part of the names under which PyTorch takes that part."""
    own = module.state_dict()
    matches = Counter(prefix for key in state for prefix in _prefixes(key) if key[len(prefix) :] in own)
    plain = set(_by_plain_name(own))
    wrapped = Counter(prefix for key in state for prefix in _prefixes(key) if _plain(key[len(prefix) :]) in plain)
    found: list[str] = []
    for prefix, _ in (matches | wrapped).most_common(_MOST_ATTEMPTS):
        part = _without_prefix(state, prefix)
        if not any(_plain(prefix) == _plain(p) for p in found) and any(
            _refusal(module, f) is None for f in _forms(module, part)
        ):
            found.append(prefix)
    return found


def _common_prefixes(state: StateDict) -> list[str]:
    """The prefixes that all names have, but for counters of the wrappers that added them."""
    deepest = max(state, key=lambda key: key.count("."), default="")
    return [
        prefix
        for prefix in _prefixes(deepest)
        if all(key.startswith(prefix) or _is_counter(key, state[key], prefix) for key in state)
    ]


def _is_counter(key: str, value: Any, prefix: str) -> bool:
    """Whether a value is a wrapper's own count, such as ``n_averaged``, and no weight."""
    parent = "".join(key.rpartition(".")[:2])
    whole = not (value.is_floating_point() or value.is_complex()) if hasattr(value, "is_floating_point") else False
    return whole and value.numel() == 1 and prefix.startswith(parent) and prefix != parent


def _without_prefix(state: StateDict, prefix: str) -> StateDict:
    return _renamed(state, {key: key[len(prefix) :] for key in state if key.startswith(prefix)}, prefix)


def _without_wrappers(state: StateDict, own: StateDict) -> StateDict:
    """The state dict under the network's own names where only wrappers' names differ."""
    plain = _by_plain_name(own)
    names = {key: key if key in own else plain.get(_plain(key), _plain(key)) for key in state}
    return _renamed(state, names) if len(set(names.values())) == len(names) else state


def _renamed(state: StateDict, names: Mapping[str, str], prefix: str = "") -> StateDict:
    """The values of some keys under other names, with the versions that modules stored."""
    renamed: OrderedDict[str, Any] = OrderedDict((name, state[key]) for key, name in names.items())
    versions = getattr(state, "_metadata", None)
    if versions is not None:
        changed = {key.rpartition(".")[0]: name.rpartition(".")[0] for key, name in names.items()}
        short = {path: f"{path}."[len(prefix) :].rstrip(".") for path in versions if f"{path}.".startswith(prefix)}
        renamed._metadata = {changed.get(p, s): versions[p] for p, s in short.items()}  # type: ignore[attr-defined]
    return renamed


def _by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Names by what they are without wrappers, where that is one name's alone."""
    plain = [(_plain(name), name) for name in names]
    times = Counter(name for name, _ in plain)
    return {short: name for short, name in plain if times[short] == 1}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(name: str) -> Iterator[str]:
    """ "a.b.c" -> "a.", "a.b."."""
    parts = name.split(".")
    return (".".join(parts[:n]) + "." for n in range(1, len(parts)))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _shape(value: Any) -> list[int]:
    return list(getattr(value, "shape", ()))
