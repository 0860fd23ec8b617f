"""The CUDA kernels of ``lccl::LCCLConv``, called from Python.

``interface`` mirrors the C header, ``library`` loads the shared library, ``planning`` writes a call down without a tensor,
``kernel_op`` runs the op on torch tensors and gives it to ``torch.ops.lccl.conv``. Only ``kernel_op`` needs PyTorch.
"""
