"""Silence for other libraries, whose notes are of no use to this project's users.

Errors come as exceptions.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

_one = threading.RLock()
"""Streams, logging and warnings belong to the process, so one thread at a time changes and restores
them."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress output, logging and warnings within the block, which one thread at a time runs."""
    with _one:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)
