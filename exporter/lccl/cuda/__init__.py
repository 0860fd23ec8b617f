"""The CUDA kernels of ``lccl::LCCLConv``, called from Python.

``interface`` mirrors the C header, ``library`` loads the shared library, ``planning`` writes a call down without a tensor,
``torch_backend`` runs the op on torch tensors and gives it to ``torch.ops.lccl.conv``. ``python -m lccl.cuda`` prints the
table of configurations and what would be chosen for a layer. Only ``torch_backend`` needs PyTorch.
"""
