"""The errors that a user can mend: one sentence and its fix as data, exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

LONGEST_SHOWN = 80
"""Characters of a value that a message repeats."""
OWNERS = {"latency": "LatencyPlan", "limits": "Limits"}
"""Keywords that take an object with options of its own -> its class in ``lccl``."""


@dataclass(frozen=True)
class Fix:
    """What to pass, or to leave out, to mend an error. Each interface spells it in its own way."""

    option: str
    """The keyword's name in Python, such as "allow_skipped"."""
    value: object = True
    """True switches the option on, False off. A shape may have letters for sizes to choose."""
    purpose: str = ""
    """What the fix does, where its name does not say it: "to compute every pixel"."""
    leave_out: bool = False
    """Whether the option has to go; the value says nothing then."""
    owner: str = ""
    """The keyword whose object has the option as a field, where Python has it so: "limits"."""

    def __str__(self) -> str:
        """The fix in Python's spelling: ``allow_skipped=True``."""
        if self.leave_out:
            return self.option
        if self.option == "args" and isinstance(self.value, tuple):
            return f"args=torch.zeros({', '.join(map(str, self.value))})"
        own = f"{self.option}={self.value!r}"
        return f"{self.owner}=lccl.{OWNERS[self.owner]}({own})" if self.owner else own


def leave_out(option: str) -> Fix:
    """The fix that an option is not given at all."""
    return Fix(option, None, leave_out=True)


def spelled(message: str, fixes: Iterable[Fix], spell: Callable[[Fix], str] = str) -> str:
    """A message with its fixes behind it, in the spelling of one interface."""
    parts: list[str] = []
    verb = ""
    for fix in fixes:
        before, verb = verb, "leave out" if fix.leave_out else "pass"
        purpose = f" {fix.purpose}" if fix.purpose else ""
        parts.append(f"{'' if verb == before else verb + ' '}{spell(fix)}{purpose}")
    return f"{message}: {', or '.join(parts)}" if parts else message


LONGEST_MESSAGE = 4000
"""Characters of a message; a longer one repeats a file or an array that was given."""


class UserError(Exception):
    """Something that the caller has to change: a file, an option, an installation.

    The message is one sentence; the middle of one that is too long is left out. Where an option
    mends it, the sentence does not name it: ``fixes`` does, and ``str`` spells them for Python. The
    commands spell them as options, print no traceback and exit with 1.

    Args:
        message: the sentence, without the fix.
        fix: what mends it, or several of which one is enough.
    """

    details: Mapping[str, object] = MappingProxyType({})
    """What a command prints in JSON besides the message."""

    def __init__(self, message: str, fix: Fix | Iterable[Fix] = ()) -> None:
        self.message = _shortened(message)
        super().__init__(self.message)
        self.fixes: tuple[Fix, ...] = (fix,) if isinstance(fix, Fix) else tuple(fix)

    def __str__(self) -> str:
        return spelled(self.message, self.fixes)


def _shortened(message: str) -> str:
    kept = LONGEST_MESSAGE // 2
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:kept]} ... {message[-kept:]}"


class ContractError(UserError, ValueError):
    """Inputs or attributes that version 1 of ``lccl::LCCLConv`` does not allow."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop.

    It is the error's type where there is no message.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The error that began a chain of "raised from"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def shown(value: object) -> str:
    """A short value of plain data as it is written; of any other, its type."""
    text = repr(value) if isinstance(value, (str, int, float, list, tuple, type(None))) else ""
    is_plain = 0 < len(text) <= LONGEST_SHOWN and "\n" not in text and " at 0x" not in text
    return text if is_plain else kind_of(value)


def kind_of(value: object) -> str:
    """The value's type with its article: "an int", "a Tensor"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
