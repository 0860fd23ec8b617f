"""The CPU op's library: where it is, whether ONNX Runtime takes it, its instruction set."""

from __future__ import annotations

from typing import Any

from lccl.version import __version__


def library_report(library: str | None = None) -> dict[str, Any]:
    """Return what is here, as plain values.

    Args:
        library: the library's path; None: as everything else finds it.

    Raises:
        UserError: a library is named and is not there.
    """
    import onnxruntime

    from lccl.backends.onnxruntime.library import HOW_TO_GET, asked_isa, check_library, cpu_isa
    from lccl.files import sha256

    found = check_library(library)
    said: dict[str, Any] = {"lccl": __version__, "library": None if found.path is None else str(found.path)}
    if found.path is not None:
        said |= {"sha256": sha256(found.path), "bytes": found.path.stat().st_size}
    said |= {"onnxruntime": onnxruntime.__version__, "takes_library": bool(found), "reason": found.reason}
    said["fix"] = "" if found else HOW_TO_GET
    variable, asked = asked_isa() or (None, None)
    said |= {"isa": cpu_isa(found.path) if found else None, "isa_asked": asked, "isa_asked_by": variable}
    return said


def isa_in_words(said: dict[str, Any]) -> str:
    """Return the instruction set of a report whose library loads, and who asked for it."""
    asked, variable = said["isa_asked"], said["isa_asked_by"]
    if said["isa"] is None:
        return f"this machine does not run {variable}={asked}: unset it" if asked else "the library does not tell"
    if asked in (None, said["isa"]):
        return f"{said['isa']}, as {variable} asks" if asked else str(said["isa"])
    return f"{said['isa']}, not {asked}: the library does not know {variable}"


def skips_pixels(said: dict[str, Any]) -> bool:
    """Return whether sessions of a report skip closed pixels with the instructions asked for."""
    return said["takes_library"] and said["isa_asked"] in (None, said["isa"])
