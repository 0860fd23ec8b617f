"""The contract of ``lccl::LCCLConv``: one meaning, stated for ONNX, NumPy and PyTorch.

``contract`` defines names, inputs, attributes and shapes, and needs only Python. ``reference`` is
the plain implementation in float64. ``onnx_op`` and ``torch_op`` define the op for ONNX and
PyTorch. Of the rest of the package, these modules import only its errors and its array type.
"""
