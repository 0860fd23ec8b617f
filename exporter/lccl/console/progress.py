"""Progress of long work: a line with a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol


class Progress(Protocol):
    """A callback that is given each step as it begins, and how far a long one is."""

    def __call__(self, step: str, done: int | None = None, total: int | None = None) -> None: ...


def silent(step: str, done: int | None = None, total: int | None = None) -> None:
    """Show nothing, which is the library's default."""


@contextmanager
def on_terminal(enabled: bool = True) -> Iterator[Progress]:
    """Show a step and a bar on stderr within the block, if it is a terminal and rich is there."""
    if not enabled or not sys.stderr.isatty() or find_spec("rich") is None:
        yield silent
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
    # The stream itself, because sys.stderr is replaced while a step keeps a library quiet.
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(step: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=escape(step), total=total, completed=done or 0)

        yield report
