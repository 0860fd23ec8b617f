"""Plain text: tables, numbers, and sentences that several parts of the package say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FIXED_BATCH = "the exported batch is dynamic, so the model must not fix its size"
FIXED_HW = "the network fixes its input's height and width"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns aligned with spaces, a rule under the head.

    Args:
        right: indices of the columns that are set flush right (numbers).
    """
    body = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in (tuple(head), *body)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, body)])


def percent(value: float | None) -> str:
    """0.3456 -> "34.6 %"; None -> "-"."""
    return "-" if value is None else f"{value:.1%}".replace("%", " %")


def count(number: int, noun: str) -> str:
    """1, "input" -> "1 input"; 3, "input" -> "3 inputs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
