"""Policies that choose which convolutions get a gate, with a reason per layer."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lccl.errors import UserError, first_line, shown
from lccl.nn.converting.structure import ConvInfo

Where = str | Sequence[str] | Callable[[ConvInfo], bool]
"""A policy as a caller names it; see :func:`lccl.nn.convert`."""
_ROLES = {"stem": "the stem", "shortcut": "a shortcut", "output": "an output layer", "pixel": "its output is one pixel"}


@dataclass(frozen=True)
class Choice:
    """Whether a convolution gets a gate, and why."""

    gated: bool
    why: str


Choices = dict[str, Choice]
Policy = Callable[[Sequence[ConvInfo]], Choices]


def policy_of(where: Where) -> Policy:
    """Return the policy that ``where`` names.

    Raises:
        UserError: it names none.
    """
    if isinstance(where, str):
        return _policy_named(where)
    if callable(where):
        return partial(_by_function, where)
    if isinstance(where, Sequence) and where and all(isinstance(name, str) for name in where):
        return partial(_by_names, tuple(where))
    raise UserError(f"where takes {_FORMS}, not {shown(where)}")


def _policy_named(where: str) -> Policy:
    if where in _NAMED:
        return _NAMED[where]
    kind, colon, value = where.partition(":")
    if colon and kind == "regex":
        try:
            return partial(_by_regex, re.compile(value))
        except re.error as error:
            raise UserError(f'where="{where}" is not a regular expression: {error}') from None
    if colon and kind in ("min-channels", "min-macs"):
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not 0 <= limit < math.inf:
            raise UserError(f'where="{where}" needs a number from 0 after the colon, as "{kind}:64"')
        return partial(_by_channels if kind == "min-channels" else _by_macs, limit)
    raise UserError(f"where takes {_FORMS}, not {shown(where)}")


def barred(conv: ConvInfo) -> str | None:
    """Return why no policy that goes by a convolution's place or size chooses it.

    None if one may.
    """
    return (
        conv.refusal
        or _ROLES.get(conv.role)
        or ("one output channel, so a gate would cost as much as it saves" if conv.out_channels == 1 else None)
    )


def _first_of_block(convs: Sequence[ConvInfo]) -> Choices:
    chosen: Choices = {}
    taken: dict[str, str] = {}
    for conv in convs:
        why = barred(conv) or (None if conv.spatial else "1x1")
        if why is None and conv.block in taken:
            why = f"{taken[conv.block]} comes first in its block"
        if why is None:
            taken[conv.block] = conv.name
        chosen[conv.name] = Choice(why is None, why or f"first {conv.kernel} of {conv.block}")
    return chosen


def _all_3x3(convs: Sequence[ConvInfo]) -> Choices:
    whys = {conv.name: barred(conv) or (None if conv.kernel == "3x3" else conv.kernel) for conv in convs}
    return {name: Choice(why is None, why or "3x3") for name, why in whys.items()}


def _paper(convs: Sequence[ConvInfo]) -> Choices:
    chosen: Choices = {}
    blocks: dict[str, list[ConvInfo]] = {}
    for conv in convs:
        why = barred(conv)
        if why is None:
            blocks.setdefault(conv.block, []).append(conv)
        chosen[conv.name] = Choice(False, why or "")
    for block, members in blocks.items():
        leads = not members[0].spatial
        for i, conv in enumerate(members):
            if not any(member.spatial for member in members):
                chosen[conv.name] = Choice(False, f"no convolution of {block} that can have a gate is larger than 1x1")
            elif leads and i == 0:
                chosen[conv.name] = Choice(False, f"the first 1x1 of {block}")
            else:
                chosen[conv.name] = Choice(True, f"{conv.kernel} of {block}")
    return chosen


def _pointwise(convs: Sequence[ConvInfo]) -> Choices:
    larger = {conv.block for conv in convs if conv.spatial}
    members = Counter(conv.block for conv in convs)

    def choose(conv: ConvInfo) -> Choice:
        why = barred(conv) or (conv.kernel if conv.spatial else None)
        if why is None and members[conv.block] > 1 and conv.block not in larger:
            why = "in a block of 1x1 convolutions only, such as squeeze-and-excitation"
        return Choice(why is None, why or "1x1")

    return {conv.name: choose(conv) for conv in convs}


def _by_regex(pattern: re.Pattern[str], convs: Sequence[ConvInfo]) -> Choices:
    if not any(pattern.search(conv.name) for conv in convs):
        names = ", ".join(conv.name for conv in convs[:3])
        raise UserError(f'where="regex:{pattern.pattern}" matches no convolution; the convolutions have names such as {names}')
    return {conv.name: _if_possible(conv, pattern.search(conv.name) is not None, "matches", "does not match") for conv in convs}


def _by_channels(limit: float, convs: Sequence[ConvInfo]) -> Choices:
    def choose(conv: ConvInfo) -> Choice:
        least = min(conv.in_channels, conv.out_channels)
        why = barred(conv)
        return Choice(False, why) if why else Choice(least >= limit, f"{least} channels")

    return {conv.name: choose(conv) for conv in convs}


def _by_macs(limit: float, convs: Sequence[ConvInfo]) -> Choices:
    if any(conv.macs is None for conv in convs):
        raise UserError('where="min-macs:..." needs an example input to count with: args=torch.randn(1, 3, 224, 224)')

    def choose(conv: ConvInfo) -> Choice:
        why = barred(conv)
        return Choice(False, why) if why else Choice((conv.macs or 0) >= limit, f"{conv.macs:,} MACs")

    return {conv.name: choose(conv) for conv in convs}


def _by_names(names: tuple[str, ...], convs: Sequence[ConvInfo]) -> Choices:
    known = {conv.name: conv for conv in convs}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "use the names of model.named_modules()"
            raise UserError(f"where names {shown(name)}, which is not a convolution of the network; {hint}")
        refusal = known[name].refusal
        if refusal:
            raise UserError(f"where names {name}, which cannot have a gate: {refusal}")
    return {name: Choice(name in names, "named" if name in names else "not named") for name in known}


def _by_function(function: Callable[[ConvInfo], bool], convs: Sequence[ConvInfo]) -> Choices:
    try:
        wanted = {conv.name: bool(function(conv)) for conv in convs}
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the function given as where raised {type(error).__name__}: {first_line(error)}") from error
    name = getattr(function, "__name__", "the function")
    return {conv.name: _if_possible(conv, wanted[conv.name], f"chosen by {name}", f"not chosen by {name}") for conv in convs}


def _if_possible(conv: ConvInfo, wanted: bool, yes: str, no: str) -> Choice:
    if wanted and conv.refusal:
        return Choice(False, conv.refusal)
    return Choice(wanted, yes if wanted else no)


_NAMED: Mapping[str, Policy] = {
    "first-of-block": _first_of_block,
    "all-3x3": _all_3x3,
    "paper": _paper,
    "pointwise": _pointwise,
}
_FORMS = (
    f"{', '.join(_NAMED)}, regex:PATTERN, min-channels:NUMBER, min-macs:NUMBER, pays:COSTS.json, a list of names, "
    "or a function of a ConvInfo"
)
