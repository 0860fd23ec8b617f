"""What every command shares: its parser, its exit codes, its errors.

An error is one sentence on stderr. With ``--json`` it is an object on stdout too, with the sentence
under "error" and what mends it, where that is an option, under "fix". The exit code is 1. An error
that nobody foresaw has its traceback on stderr too, and its type and message under "unexpected".
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import inspect
import json
import math
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn, Protocol

from lccl.errors import Fix, UserError, first_line, shown, spelled
from lccl.errors.deprecation import sentence
from lccl.errors.requires import needing
from lccl.errors.user_error import LONGEST_SHOWN
from lccl.files import discard_unfinished
from lccl.version import __version__

Command = Callable[..., int]
"""Takes its words, and the name that it was called by where that is not its own; gives the exit
code."""
EXIT_OK, EXIT_FAILED, EXIT_LIMIT_FAILED = 0, 1, 2
LONGEST_REASON = 400
"""Characters of an unexpected error's own message."""
INTERRUPTED = "interrupted: no file was left half-written"

SPELLINGS = {
    "args": "--input-shape",
    "compute_capabilities": "--compute-capability",
    "path": "--output",
}
"""Python's keywords whose option has another name than theirs."""


class Result(Protocol):
    """What a command shows: as text, or as plain values."""

    def as_dict(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Report:
    """Plain values, and how they read as text."""

    values: Mapping[str, object]
    text: str

    def as_dict(self) -> Mapping[str, object]:
        """Plain values for JSON."""
        return self.values

    def __str__(self) -> str:
        return self.text


class Parser(argparse.ArgumentParser):
    """argparse with this project's exit code for wrong usage, and every command's options."""

    def __init__(self, prog: str, description: str, epilog: str, progress: bool = True) -> None:
        super().__init__(prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.old_spellings: dict[str, str] = {}
        """Options that were renamed: old -> new."""
        self.add_argument("--version", action="version", version=f"lccl {__version__}")
        self.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
        if progress:
            self.add_argument("-q", "--quiet", action="store_true", help="no progress, even on a terminal")

    def error(self, message: str) -> NoReturn:
        said = re.sub(rf"\S{{{LONGEST_SHOWN},}}", lambda word: f"{word[0][:LONGEST_SHOWN]}...", message)
        raise UserError(f"{said}{self._nearest(message)} (see {self.prog} --help)")

    def _nearest(self, message: str) -> str:
        """The option that an unknown one may stand for, as a question; empty if none is near."""
        words = message.removeprefix("unrecognized arguments: ").split("=")[0].split()
        if not words or words[0] == message.split()[0]:
            return ""
        unknown = words[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1, cutoff=0.7)
        return f": did you mean {near[0]}?" if near else ""

    def keep_old_spelling(self, old: str, new: str) -> None:
        """Accept ``old`` for ``new``, an option of this parser, with a warning.

        Both together are an error.
        """
        self.old_spellings[old] = new

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it, after old spellings are replaced."""
        return super().parse_args(self._renamed(args), namespace)

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it, after old spellings are replaced."""
        return super().parse_intermixed_args(self._renamed(args), namespace)

    def _renamed(self, args: Sequence[str] | None) -> list[str]:
        """The words with old options, whole or cut short, in their new spelling."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        found: dict[str, str] = {}
        given = set()
        for i, word in enumerate(words[:end]):
            name, equals, value = word.partition("=")
            whole = self._whole(name) if name.startswith("--") else None
            if whole in self.old_spellings:
                found[whole] = self.old_spellings[whole]
                words[i] = f"{found[whole]}{equals}{value}"
            elif whole:
                given.add(whole)
        for old, new in found.items():
            if new in given:
                self.error(f"argument {new}: not allowed with argument {old}, its old spelling")
            print(f"warning: {sentence(old, new)}", file=sys.stderr)
        return words

    def _whole(self, name: str) -> str | None:
        """The option that a word names.

        That is the whole word, else the only option that begins so; present ones come before old
        ones.
        """
        for options in (self._option_string_actions, self.old_spellings):
            if name in options:
                return name
        for options in (self._option_string_actions, self.old_spellings):
            longer = [known for known in options if known.startswith(name)]
            if longer:
                return longer[0] if len(longer) == 1 else None
        return None


def run(command: Command, prog: str | None = None) -> NoReturn:
    """Run a command on this process's arguments and exit; ``prog`` as in :func:`execute`."""
    handle_signals()
    raise SystemExit(execute(command, sys.argv[1:], prog))


def handle_signals() -> None:
    """Let Ctrl-C and a request to terminate end the process with its files put right."""
    signal.signal(signal.SIGINT, _abandon)
    signal.signal(signal.SIGTERM, _abandon)


def execute(command: Command, arguments: Sequence[str], prog: str | None = None) -> int:
    """Run a command; the exit code.

    A user's error is one sentence on stderr and exit code 1; so is an interrupt that code raised.
    Any other error is a fault of this package: its traceback comes before the sentence.

    Args:
        command: the command.
        arguments: its words; with ``--json`` among them an error is an object on stdout too.
        prog: the name that it was called by; None: its own.
    """
    as_json = _asks_for_json(arguments)
    try:
        with needing(prog or _name(command)):
            code = command(arguments) if prog is None else command(arguments, prog)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except UserError as error:
        return _failed(spelled(error.message, error.fixes, option), as_json, {**_fixes(error), **error.details})
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_FAILED
    except MemoryError:
        return _failed("out of memory; close other programs or use a smaller batch", as_json)
    except OSError as error:
        with contextlib.suppress(OSError):  # stdout itself may be what failed
            if not isinstance(error, BrokenPipeError):
                _failed(str(error.strerror or error), as_json)
                sys.stdout.flush()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's own flush at exit is quiet
        return EXIT_FAILED
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {first_line(error)[:LONGEST_REASON]}"
        return _failed(f"lccl failed ({said}): please report this with the lines above", as_json, {"unexpected": said})
    return code


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among the words, whole or cut short, as argparse takes it."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any("--json".startswith(word) and word.startswith("--j") for word in options)


def _name(command: Command) -> str:
    """ "lccl-export" for the command of the module ``export``, run as a script too."""
    return f"lccl-{(inspect.getmodulename(inspect.getfile(command)) or '').replace('_', '-')}"


def option(fix: Fix) -> str:
    """A fix as words of a command: ``--allow-skipped``, ``--backend tensorrt``, ``--no-plugin``."""
    if fix.option == "precision":
        return f"--{fix.value}"
    if fix.option == "latency":
        return "--runs 0"
    if fix.option == "args" and isinstance(fix.value, tuple):
        return f"{SPELLINGS['args']} {'x'.join(map(str, fix.value))}"
    name = SPELLINGS.get(fix.option, f"--{fix.option.replace('_', '-')}")
    if fix.leave_out or fix.value is True:
        return name
    return f"--no-{name.removeprefix('--')}" if fix.value is False else f"{name} {_word(fix.value)}"


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}:{_word(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return ("x" if all(isinstance(item, int) for item in value) else " ").join(map(str, value))
    return shlex.quote(str(value))


def _fixes(error: UserError) -> dict[str, object]:
    """The first fix of an error under "fix", what would do as well under "other_fixes"."""
    fixes = [asdict(fix) for fix in error.fixes]
    return {name: value for name, value in (("fix", fixes[0] if fixes else None), ("other_fixes", fixes[1:])) if value}


def _failed(message: str, as_json: bool, details: Mapping[str, object] | None = None) -> int:
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        _print_json({"error": message, **(details or {})})
    return EXIT_FAILED


def _abandon(_number: int, _frame: FrameType | None) -> NoReturn:
    """Ctrl-C and a request to terminate end the process where it stands, with its files put right.

    Not by an exception: one that is raised while PyTorch's C++ code calls Python (its import does)
    aborts the process, and one that meets code run by ``exec`` makes Python end itself by the
    signal whatever the exit code should be.
    """
    discard_unfinished()
    progress = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
    os.write(2, f"{progress}{INTERRUPTED}\n".encode())
    os._exit(EXIT_FAILED)


def warn_renamed(old: str, new: str) -> None:
    """Say on stderr that a command has another name now."""
    print(f"warning: {sentence(old, new)}", file=sys.stderr)


def show(result: Result, as_json: bool) -> None:
    """A result as text, or as JSON."""
    if as_json:
        _print_json(result.as_dict())
    else:
        print(result)


def _print_json(values: Mapping[str, object]) -> None:
    print(json.dumps(_plain(values), indent=1, default=str))


def _plain(value: object) -> object:
    """The value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def recorded(words: Sequence[str]) -> list[str]:
    """A command's words for a file that others read.

    Paths lose their folders, which are this machine's own.
    """
    return [re.sub(r"^(--?[\w-]+=)?.*[/\\](?=.)", r"\1", word) for word in words]


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Send what the user's code or a library prints within the block to stderr.

    stdout is for the result.
    """
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        try:
            out, err = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
            kept = os.dup(out)
        except (AttributeError, OSError, ValueError):  # no such streams, or closed ones
            yield
            return
        stack.callback(os.close, kept)
        _flush()
        os.dup2(err, out)  # C++ prints to the descriptor
        stack.callback(os.dup2, kept, out)
        stack.callback(_flush)
        yield


def _flush() -> None:
    """What Python and C have printed goes to where stdout leads now."""
    if sys.__stdout__ is not None:
        sys.__stdout__.flush()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).fflush(None)


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1x3x224x224" or "1,3,224,224" -> (1, 3, 224, 224).

    Raises:
        UserError: another form.
    """
    parts = text.replace(",", "x").split("x")
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"a shape is written like 1x3x224x224, not {shown(text)}")
    return tuple(map(int, parts))


def parse_named_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Read "input:1x3x224x224", several or one with commas between, as name -> shape.

    Raises:
        UserError: another form.
    """
    shapes = {}
    for text in ",".join(texts or ()).split(",") if texts else ():
        name, colon, shape = text.rpartition(":")
        if not colon or not name:
            raise UserError(f"a shape is written like input:1x3x224x224, not {shown(text)}")
        shapes[name] = parse_shape(shape)
    return shapes


def fraction(text: str) -> float:
    """An argument between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a fraction is between 0 and 1, not {text}")
    return value


def seconds(text: str) -> float:
    """A time that is not negative."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"a time is not negative, as {text} is")
    return value


def number(text: str) -> float:
    """A finite argument."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a finite number is wanted, not {text}")
    return value
