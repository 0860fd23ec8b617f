"""The CUDA kernels on a GPU: ``check`` does all of it, in steps.

``layers`` is the benchmark alone.
"""
