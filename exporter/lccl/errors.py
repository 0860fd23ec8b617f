"""The errors that a user can mend: one sentence that says the fix, exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class UserError(Exception):
    """Something that the caller has to change: a file, an option, an installation.

    The message is one sentence that names the fix. The commands print it without a traceback and exit with 1.
    """

    details: Mapping[str, Any] = MappingProxyType({})
    """What a command prints besides the message with ``--json``."""


class ContractError(UserError, ValueError):
    """Inputs or attributes that version 1 of ``lccl::LCCLConv`` does not allow."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, or its type where it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The error that began a chain of "raised from"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
