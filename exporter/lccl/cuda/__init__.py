"""The command ``python -m lccl.cuda``: the table of the kernels' configurations, and what would be chosen for a layer."""
