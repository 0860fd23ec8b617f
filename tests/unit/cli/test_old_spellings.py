"""Every option and keyword that was renamed works by its old name, warns, and does not go with its new one."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lccl
from lccl.comparing import Check, Comparison, Environment, Limits

OPTIONS = (
    ("export", "--model", "--factory", "a:b"),
    ("export", "--inputs", "--data", "x.npz"),
    ("export", "--dense", "--dense-twin", None),
    ("build_engine", "--plugin", "--plugin-library", "p.so"),
    ("compare", "--dense", "--baseline", "d.pt"),
    ("compare", "--model", "--factory", "a:b"),
    ("compare", "--dense-model", "--baseline-factory", "a:b"),
    ("compare", "--no-twin", "--no-dense-twin", None),
    ("compare", "--min-dense-agreement", "--min-baseline-agreement", "0.5"),
    ("compare", "--plugin", "--plugin-library", "p.so"),
)
NEEDED = {"export": ["m.pt", "-o", "m.onnx"], "build_engine": ["m.onnx"], "compare": ["m.onnx", "--data", "x.npz"]}


@pytest.mark.parametrize(("command", "old", "new", "value"), OPTIONS, ids=lambda v: str(v))
def test_old_options(command: str, old: str, new: str, value: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    parser = import_module(f"lccl.cli.{command}").parser()
    values = [] if value is None else [value]
    by_new = parser.parse_intermixed_args([*NEEDED[command], new, *values])
    assert capsys.readouterr().err == ""
    assert parser.parse_intermixed_args([*NEEDED[command], old, *values]) == by_new
    assert capsys.readouterr().err == f"warning: {old} is now {new}; the old spelling goes away in 0.3\n"
    for words in ([old, *values, new, *values], [new, *values, old, *values]):
        with pytest.raises(lccl.UserError, match=f"argument {new}: not allowed with argument {old}"):
            parser.parse_intermixed_args([*NEEDED[command], *words])
    assert f"{old} " not in parser.format_help().replace(f"{new} ", "")


@pytest.mark.parametrize(
    ("command", "words", "same", "old"),
    [
        ("export", ["--inputs=x.npz"], ["--data=x.npz"], "--inputs"),
        ("export", ["--mod", "a:b"], ["--factory", "a:b"], "--model"),
        ("export", ["--den"], ["--dense-twin"], None),
        ("build_engine", ["--plugin=p.so"], ["--plugin-library", "p.so"], "--plugin"),
        ("build_engine", ["--plug", "p.so"], ["--plugin-library", "p.so"], None),
        ("compare", ["--dense-m=a:b"], ["--baseline-factory", "a:b"], "--dense-model"),
        ("compare", ["--min-d", "0.5"], ["--min-baseline-agreement", "0.5"], "--min-dense-agreement"),
        ("compare", ["--plugin-l", "p.so"], ["--plugin-library", "p.so"], None),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_old_options_with_their_value_and_cut_short(
    command: str, words: list[str], same: list[str], old: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = import_module(f"lccl.cli.{command}").parser()
    needed = NEEDED[command]
    assert parser.parse_intermixed_args([*words, *needed]) == parser.parse_intermixed_args([*same, *needed])
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {old} is now ") if old else said == ""


def test_what_begins_like_two_old_options_is_no_option() -> None:
    parser = import_module("lccl.cli.compare").parser()
    with pytest.raises(lccl.UserError, match="unrecognized arguments: --den"):
        parser.parse_intermixed_args([*NEEDED["compare"], "--den", "d.pt"])
    with pytest.raises(lccl.UserError, match="--factory: not allowed with argument --model,"):
        parser.parse_intermixed_args([*NEEDED["compare"], "--mod", "a:b", "--facto", "a:b"])


def test_a_file_may_have_the_name_of_an_old_option() -> None:
    assert import_module("lccl.cli.build_engine").parser().parse_args(["--", "--plugin"]).model == Path("--plugin")


def test_the_usage_still_says_what_does_not_go_together() -> None:
    usage = " ".join(import_module("lccl.cli.build_engine").parser().format_usage().split())
    assert "[--plugin-library LIBRARY | --no-plugin]" in usage


def test_every_old_option_is_tested() -> None:
    for command, needed in NEEDED.items():
        parser = import_module(f"lccl.cli.{command}").parser()
        assert set(parser.old_spellings) == {old for name, old, _, _ in OPTIONS if name == command}, needed


def test_the_old_plugin_option_does_not_go_with_no_plugin() -> None:
    from lccl.cli.build_engine import parser

    with pytest.raises(lccl.UserError, match="not allowed with"):
        parser().parse_intermixed_args(["m.onnx", "--plugin", "p.so", "--no-plugin"])


@pytest.mark.slow
def test_old_keywords_of_export(small_model: torch.nn.Module, tmp_path: Path) -> None:
    x = torch.zeros(1, 1, 16, 16)
    with pytest.warns(FutureWarning) as caught:
        result = lccl.export(small_model, x, tmp_path / "m.onnx", dense=True, inputs={"x": np.ones((2, 1, 16, 16), "f4")})  # type: ignore[call-arg]
    said = [str(w.message) for w in caught if w.category is FutureWarning]
    assert sorted(s.partition(";")[0] for s in said) == ["dense= is now dense_twin=", "inputs= is now data="]
    assert result.dense_path is not None
    assert result.given_inputs == 2
    with pytest.raises(lccl.UserError, match="dense is the old spelling of dense_twin"):
        lccl.export(small_model, x, tmp_path / "m.onnx", dense=True, dense_twin=True)  # type: ignore[call-arg]


def test_old_keywords_of_compare(exported: Path) -> None:
    x = np.zeros((2, 1, 16, 16), np.float32)
    twin = exported.with_suffix(".dense.onnx")
    old: dict[str, Any] = {"dense": twin, "dense_factory": None, "twin": False}
    new: dict[str, Any] = {"baseline": twin, "baseline_factory": None, "dense_twin": False}
    with pytest.warns(FutureWarning) as caught:
        result = lccl.compare(exported, x, latency=None, **old)
    assert len([w for w in caught if w.category is FutureWarning]) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        again = lccl.compare(exported, x, latency=None, **new)
    assert [(r.network, r.role) for r in result.rows] == [(r.network, r.role) for r in again.rows]
    for (name, value), (other, _) in zip(old.items(), new.items(), strict=True):
        with pytest.raises(lccl.UserError, match=f"{name} is the old spelling of {other}"):
            lccl.compare(exported, x, latency=None, **{name: value}, **new)


def test_old_fields_and_names() -> None:
    with pytest.warns(FutureWarning):
        limits = Limits(min_dense_agreement=0.5)  # type: ignore[call-arg]
    assert limits == Limits(min_baseline_agreement=0.5)
    with pytest.warns(FutureWarning, match="held is now passed"):
        assert Check("a", 1, 1, True).held  # type: ignore[attr-defined]
    with pytest.warns(FutureWarning, match="setting is now environment"):
        assert Comparison((), None, (), Environment(1, 1, 1, "a CPU")).setting.images == 1  # type: ignore[attr-defined]
    with pytest.warns(FutureWarning, match=r"lccl\.comparing\.Setting is now lccl\.comparing\.Environment"):
        assert lccl.comparing.Setting is Environment  # type: ignore[attr-defined]
