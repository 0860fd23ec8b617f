"""What machine measures."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path


def machine_name() -> str:
    """Return the processor's own name for itself, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
