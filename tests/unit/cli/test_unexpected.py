"""Errors that nobody foresaw: a traceback for the report, an object for programs, exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

import lccl.cli.main
from conftest import Outcome
from lccl.command_line import LONGEST_REASON, Report, execute, show
from lccl.errors import UserError
from lccl.errors.user_error import LONGEST_MESSAGE
from lccl.files import require_file, require_writable

Invoke = Callable[..., Outcome]


def failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def command(_: Sequence[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize("word", ["--json", "--js", "--j"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TypeError("'NoneType' object is not iterable\nsecond line"), "TypeError: 'NoneType' object is not iterable"),
        (KeyError("x"), "KeyError: 'x'"),
        (RecursionError(), "RecursionError: RecursionError"),
        (AssertionError("a" * 10**6), "AssertionError: " + "a" * LONGEST_REASON),
    ],
)
def test_an_unexpected_error_is_an_object_too(
    error: Exception, said: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(failing(error), ["model.onnx", word]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "error": f"lccl failed ({said}): please report this with the lines above",
        "unexpected": said,
    }
    assert captured.err.startswith("Traceback")
    assert captured.err.endswith(f"error: lccl failed ({said}): please report this with the lines above\n")


@pytest.mark.parametrize("words", [[], ["-q"], ["--", "--json"]])
def test_without_json_stdout_stays_empty(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(failing(ValueError("no")), words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" in captured.err


def test_a_result_that_json_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: Sequence[str]) -> int:
        show(Report({("a", "b"): 1}, "text"), as_json=True)  # type: ignore[dict-item]
        return 0

    assert execute(command, ["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unexpected"].startswith("TypeError: keys must be str")


def test_a_command_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"export": SimpleNamespace(module="lccl.cli.absent")}
    monkeypatch.setattr(lccl.cli.main, "SUBCOMMANDS", broken)
    assert lccl.cli.main.dispatch(["export", "--json"]) == 1
    assert "lccl.cli.absent" in json.loads(capsys.readouterr().out)["unexpected"]


@pytest.mark.parametrize("module", ["lccl.cli.export", "lccl.cli.build_engine", "lccl.cli.compare"])
def test_a_users_error_cut_short_is_an_object(invoke: Invoke, module: str) -> None:
    """argparse takes options that are cut short, so that an error is an object with these too."""
    words = ["-o", "m.onnx"] if module.endswith("export") else ["--data", "x.npz"] if module.endswith("compare") else []
    outcome = invoke(module, "absent.onnx", *words, "--jso")
    assert outcome.code == 1
    assert "no such file: absent.onnx" in json.loads(outcome.out)["error"]


@pytest.mark.parametrize("given", ["x" * 10**6, "dir/" * 2000 + "end"])
def test_no_message_repeats_megabytes(given: str) -> None:
    for check in (require_file, require_writable):
        with pytest.raises(UserError) as caught:
            check(given)
        assert len(str(caught.value)) < LONGEST_MESSAGE + 100
    long = UserError(f"the keys {given} do not fit: use another file")
    assert str(long).startswith("the keys ")
    assert str(long).endswith(" do not fit: use another file")
    assert len(long.message) < LONGEST_MESSAGE + 10 > len(long.args[0])
