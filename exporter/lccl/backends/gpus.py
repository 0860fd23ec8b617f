"""NVIDIA GPUs and their driver, as the driver's own library tells them, without CUDA's runtime."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR."""
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    capability: str
    """The compute capability, such as "8.9"."""


def driver() -> Any | None:
    """Return the driver's library, initialized; None where there is no driver or no GPU."""
    try:
        library = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return None
    return library if library.cuInit(0) == 0 else None


def driver_version() -> str | None:
    """Return the newest CUDA that the driver runs, such as "13.0"; None without a driver."""
    library, version = driver(), ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine, in the driver's order."""
    library, count = driver(), ctypes.c_int(0)
    if library is None or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for ordinal in range(count.value):
        device, name, numbers = ctypes.c_int(0), ctypes.create_string_buffer(_LONGEST_NAME), []
        if library.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
            continue
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int(0)
            if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0:
                numbers.append(str(value.value))
        if len(numbers) == 2:
            known = library.cuDeviceGetName(name, _LONGEST_NAME, device) == 0
            found.append(Gpu(name.value.decode(errors="replace") if known else "GPU", ".".join(numbers)))
    return tuple(found)
