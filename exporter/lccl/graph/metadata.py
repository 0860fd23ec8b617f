"""Metadata of an ONNX model: who wrote it, and what a later command needs to know."""

from __future__ import annotations

import onnx
from onnx import helper


def set_metadata(model: onnx.ModelProto, producer_version: str, metadata: dict[str, str]) -> None:
    """Producer and metadata of a file that this project writes."""
    model.producer_name, model.producer_version = "lccl", producer_version
    kept = {p.key: p.value for p in model.metadata_props if p.key.startswith("lccl.")}
    helper.set_model_props(model, kept | metadata)
