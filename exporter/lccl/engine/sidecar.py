"""The side-car of an engine: JSON beside it that says what is in it and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lccl.backends.interface import BACKEND_NAMES, FORMS_BACKEND
from lccl.engine.results import EngineResult
from lccl.errors import UserError
from lccl.files import sha256

SIDECAR_SUFFIX = ".json"
FORMAT_VERSION = 1


def write_sidecar(path: Path, result: EngineResult, source: Path, digest: str, command: str, lccl_version: str) -> None:
    """Write the side-car of ``result`` to ``path``."""
    values = result.as_dict()
    content = {
        "format": FORMAT_VERSION,
        "engine": {"file": result.path.name, "sha256": result.sha256},
        "source": {"file": source.name, "sha256": digest},
        "command": command,
        "versions": {"lccl": lccl_version, result.backend: result.version},
        "backend": result.backend,
        "plugin": values["plugin"],
        "precision": result.precision,
        "compute_capabilities": values["compute_capabilities"],
        "profiles": values["profiles"],
        "bytes": result.bytes,
        "build_seconds": round(result.seconds, 3),
        "layers": values["layers"],
        **({"choice": values["choice"]} if result.choice is not None else {}),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def read_sidecar(engine: str | Path) -> dict[str, object]:
    """Read the side-car of an engine.

    Raises:
        UserError: it is missing or not readable.
    """
    path = Path(engine)
    sidecar = path.with_name(path.name + SIDECAR_SUFFIX)
    content: object
    try:
        content = json.loads(sidecar.read_text())
    except FileNotFoundError:
        raise UserError(f"{sidecar} is missing: keep it beside the engine, or build again with lccl-build-engine") from None
    except (OSError, ValueError):
        content = {}
    if not isinstance(content, dict) or not _well_formed(content):
        raise UserError(f"{sidecar} cannot be read: build the engine again with lccl-build-engine")
    if content["engine"].get("sha256") != sha256(path):
        raise UserError(
            f"{sidecar} belongs to another engine than {path}: build again with lccl-build-engine, and keep the two together"
        )
    return content


def _well_formed(content: Mapping[str, object]) -> bool:
    return (
        {"backend", "layers", "engine"} <= set(content)
        and content["backend"] in (*BACKEND_NAMES, FORMS_BACKEND)
        and isinstance(content["engine"], dict)
    )
