"""What the commands of this folder share."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that exits with 1 and one sentence on wrong usage.

    Code 2 says that something measured was wrong.
    """

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(1)
