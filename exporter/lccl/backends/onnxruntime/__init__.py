"""The ONNX Runtime backend: the CPU op's library, sessions and the runner."""
