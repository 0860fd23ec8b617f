"""Metadata of an ONNX model: its producer, and notes for later commands."""

from __future__ import annotations

import onnx
from onnx import helper


def set_metadata(model: onnx.ModelProto, producer_version: str, metadata: dict[str, str]) -> None:
    """Set the producer and metadata of a model that this project writes.

    Notes of this project that the model has already are kept.
    """
    model.producer_name, model.producer_version = "lccl", producer_version
    kept = {p.key: p.value for p in model.metadata_props if p.key.startswith("lccl.")}
    helper.set_model_props(model, kept | metadata)
