"""The contract of ``lccl::LCCLConv``: one meaning, stated for ONNX, NumPy and PyTorch.

``contract`` holds names, inputs, attributes and shapes and needs nothing but Python; ``reference`` is the plain float64
meaning; ``onnx_op`` and ``torch_op`` carry it into ONNX and PyTorch. Nothing here imports the rest of the
package but its errors and its name for an array.
"""
