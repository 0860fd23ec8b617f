"""Module or ONNX -> the canonical ONNX file and its twins, checked before any of them is written."""

from lccl.exporting.pipeline import ExportResult, export

__all__ = ["ExportResult", "export"]
