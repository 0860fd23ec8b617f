"""Old spellings work, warn at the caller's line, and do not go together with the new ones."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, replace
from types import ModuleType

import pytest

import lccl
from lccl.errors.deprecation import renamed_fields, renamed_keywords, renamed_names


@renamed_keywords(dense="dense_twin")
def export(model: str, *, dense_twin: bool = False) -> tuple[str, bool]:
    """Does nothing."""
    return model, dense_twin


@renamed_fields(old_least="least")
@dataclass(frozen=True)
class Limits:
    """One limit."""

    least: float | None = None


def test_an_old_keyword_works_and_warns_where_it_is_used() -> None:
    with pytest.warns(FutureWarning, match=r"^dense= is now dense_twin=; the old spelling goes away in 0\.3$") as caught:
        assert export("m", dense=True) == ("m", True)  # type: ignore[call-arg]
    assert caught[0].filename == __file__


def test_the_new_keyword_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export("m", dense_twin=True) == ("m", True)
        assert Limits(least=1.0).least == 1.0


def test_both_spellings_are_an_error() -> None:
    with pytest.raises(lccl.UserError, match="dense is the old spelling of dense_twin: give one of them"):
        export("m", dense=True, dense_twin=True)  # type: ignore[call-arg]


def test_the_signature_is_that_of_the_new_spelling() -> None:
    from inspect import signature

    assert list(signature(export).parameters) == ["model", "dense_twin"]
    assert export.__doc__ == "Does nothing."


def test_old_fields() -> None:
    with pytest.warns(FutureWarning, match="old_least= is now least=") as caught:
        limits = Limits(old_least=0.5)  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    assert limits == Limits(0.5)
    with pytest.warns(FutureWarning, match="old_least is now least") as caught:
        assert limits.old_least == 0.5  # type: ignore[attr-defined]
    assert caught[0].filename == __file__
    with pytest.raises(lccl.UserError, match="give one of them"):
        Limits(old_least=0.5, least=0.5)  # type: ignore[call-arg]


def test_replace_wants_the_new_name_of_a_field() -> None:
    """It passes every field itself, the new name of this one among them."""
    with pytest.raises(lccl.UserError, match="old_least is the old spelling of least: give one of them"):
        replace(Limits(0.5), old_least=0.4)  # type: ignore[call-arg]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(Limits(0.5), least=0.3) == Limits(0.3)


def test_old_names_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some")
    module.__getattr__ = renamed_names("some", {"Old": ("New", lambda: 1)})  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "some", module)
    with pytest.warns(FutureWarning, match=r"some\.Old is now some\.New") as caught:
        assert module.Old == 1
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="module 'some' has no attribute 'nothing'"):
        _ = module.nothing
