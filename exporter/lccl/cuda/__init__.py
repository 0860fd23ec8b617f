"""``python -m lccl.cuda``: the kernels' configurations, and what is chosen for a layer."""
