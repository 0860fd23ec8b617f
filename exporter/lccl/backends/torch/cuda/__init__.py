"""The CUDA kernels of ``lccl::LCCLConv``, called from Python.

``interface`` mirrors the C header, ``library`` loads the shared library, ``planning`` describes a
call without tensors, ``calls`` adds torch tensors to it, and ``kernel_op`` runs the op and
registers it as ``torch.ops.lccl.conv``. Only ``calls`` and ``kernel_op`` need PyTorch.
"""
