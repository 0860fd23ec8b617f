"""The CPU op of ``lccl::LCCLConv`` for ONNX Runtime: where its library is, and sessions that use it.

With the library registered, ONNX Runtime computes a gated convolution only where its gate is open. Without it, the same file
runs through the op's model-local function, which computes every pixel. ``python -m lccl.ort`` prints what is here.
"""

from lccl.backends.onnxruntime.library import Found, cpu_isa, cpu_level, find_library, library_path, look_for_library
from lccl.backends.onnxruntime.session import session

__all__ = ["Found", "cpu_isa", "cpu_level", "find_library", "library_path", "look_for_library", "session"]
