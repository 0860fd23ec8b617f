"""Calls of the native code: through host programs, on the emulated machine, in ONNX Runtime."""
