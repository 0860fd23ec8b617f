"""The form of docstrings and comments in the package: summary lines, sections, line length."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "exporter" / "lccl"
FILES = sorted(PACKAGE.rglob("*.py"))
COLUMNS = 100
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def strings(tree: ast.AST) -> Iterator[tuple[ast.Constant, bool]]:
    """Every docstring, those behind attributes too, and whether it is that of a module, class or function."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for i, statement in enumerate(body if isinstance(body, list) else ()):
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value, i == 0 and isinstance(node, DOCUMENTED)


def faults(text: str) -> Iterator[str]:
    """What is wrong with the prose of a file."""
    lines = text.splitlines()
    for node, has_summary in strings(ast.parse(text)):
        summary = node.value.strip().partition("\n\n")[0]
        if has_summary and re.match(r"(Args|Returns|Yields|Raises):", summary):
            yield f"{node.lineno}: starts at a section"
        elif has_summary and "\n" in summary:
            yield f"{node.lineno}: a summary of more than one line"
        elif has_summary and not summary.endswith("."):
            yield f"{node.lineno}: a summary without a full stop"
        last = node.end_lineno or node.lineno
        yield from (f"{n}: {len(lines[n - 1])} columns" for n in range(node.lineno, last + 1) if len(lines[n - 1]) > COLUMNS)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        alone = token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
        if alone and len(token.line.rstrip()) > COLUMNS:
            yield f"{token.start[0]}: {len(token.line.rstrip())} columns"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_and_comments(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""Raises:\n    UserError: always.\n"""\n', ["1: starts at a section"]),
        ('def f():\n    """Return it,\n    or not.\n    """\n', ["2: a summary of more than one line"]),
        ('class A:\n    """A thing"""\n', ["2: a summary without a full stop"]),
        (f'"""A module."""\nx = 1\n"""{"y" * COLUMNS}"""\n', ["3: 106 columns"]),
        (f"# {'y' * COLUMNS}\n", ["1: 102 columns"]),
        ('"""Returns are counted.\n\nDetails\nthat go on.\n"""\n', []),
    ],
)
def test_a_fault_is_found(text: str, found: list[str]) -> None:
    assert list(faults(text)) == found
