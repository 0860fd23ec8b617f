"""Module or ONNX -> the canonical ONNX file and its twins, checked before any of them is written."""

from lccl.exporting.exporter import export
from lccl.exporting.results import ExportResult

__all__ = ["ExportResult", "export"]
