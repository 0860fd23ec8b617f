"""``lccl`` and its subcommands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import ROOT
from lccl.cli.main import SUBCOMMANDS, dispatch
from lccl.version import __version__


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, subcommand in SUBCOMMANDS.items():
        assert any(line.split() == [name, *subcommand.summary.split()] for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"lccl {__version__}\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exprot", "did you mean export?"),
        ("build_engine", "did you mean build-engine?"),
        ("lccl-compare", "did you mean compare?"),
        ("nothing", "choose one of export, build-engine, compare, inspect, tune, measure, doctor, build-plugin"),
    ],
)
def test_an_unknown_command(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch([name, "a.pt"]) == 1
    assert capsys.readouterr().err == f"error: there is no command {name!r}: {said} (see lccl --help)\n"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        dispatch([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: lccl {name} ")
    assert f"\n  lccl {name}" in out.partition("examples:")[2]


@pytest.mark.slow
def test_a_subcommand_runs_as_the_command_does(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    assert dispatch(["export", str(checkpoint), "-o", str(tmp_path / "m.onnx")]) == 0
    notes = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert notes["lccl.command"] == "lccl export small.pt -o m.onnx"
    assert dispatch(["export", "absent.pt", "-o", "m.onnx", "--json"]) == 1
    assert "error: no such file" in capsys.readouterr().err
    assert dispatch(["compare"]) == 1
    assert "(see lccl compare --help)" in capsys.readouterr().err


def test_each_command_is_a_subcommand_and_a_script() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.pop("lccl") == "lccl.cli.main:main"
    assert scripts == {f"lccl-{name}": f"{subcommand.module}:main" for name, subcommand in SUBCOMMANDS.items()}


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lccl.cli.main", "exprt"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean export?" in done.stderr


@pytest.mark.parametrize(("word", "said"), [("--dense-twn", "did you mean --dense-twin?"), ("--nothing-like-it", "")])
def test_an_unknown_option_names_the_nearest(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["export", "a.pt", "-o", "a.onnx", word]) == 1
    error = capsys.readouterr().err
    assert f"unrecognized arguments: {word}{': ' if said else ''}{said} (see lccl export --help)" in error
