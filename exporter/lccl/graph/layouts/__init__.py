"""Layouts of a model's tensors, and the nodes that take one: for the ONNX Runtime backend."""
