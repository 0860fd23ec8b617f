"""Module or ONNX -> the canonical ONNX file and its variants, each checked before it is written."""

from lccl.exporting.exporter import export
from lccl.exporting.results import ExportResult

__all__ = ["ExportResult", "export"]
