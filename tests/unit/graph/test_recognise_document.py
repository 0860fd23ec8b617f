"""The table of exporter/README.md is what recognition makes of the named graphs."""

from __future__ import annotations

import pytest

from support.graphs.recognised_table import table, written


@pytest.mark.slow
def test_the_table_is_up_to_date() -> None:
    """If it is not: ``python tests/support/graphs/recognised_table.py`` writes it."""
    assert written() == table()
