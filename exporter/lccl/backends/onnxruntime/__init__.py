"""ONNX Runtime: the CPU op's library, sessions, the runner."""
