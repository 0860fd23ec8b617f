"""The CPU op of ``lccl::LCCLConv`` for ONNX Runtime: its library, and sessions that use it.

With the library registered, ONNX Runtime computes a gated convolution only where its gate is open.
Without it, the same file runs through the function body, which computes every pixel. ``python -m
lccl.ort`` prints what is here.
"""

from lccl.backends.onnxruntime.library import LibraryCheck, check_library, cpu_isa, find_library, library_path
from lccl.backends.onnxruntime.session import session
from lccl.errors.deprecation import renamed_names

__all__ = ["LibraryCheck", "check_library", "cpu_isa", "find_library", "library_path", "session"]

__getattr__ = renamed_names(
    __name__,
    {
        "Found": ("LibraryCheck", lambda: LibraryCheck),
        "cpu_level": ("cpu_isa", lambda: cpu_isa),
        "look_for_library": ("check_library", lambda: check_library),
    },
)
