"""Without the notes of libraries, of which no user of this project can make anything; their errors come as exceptions."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

_one = threading.RLock()
"""Output streams, logging and warnings are the process's: threads that change and restore them in turn would mix them up."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, logged or warned of within the block, which one thread at a time runs."""
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
