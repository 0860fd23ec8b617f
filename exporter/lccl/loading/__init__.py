"""Loading of networks, models and data from files.

``torch_file``, ``onnx`` and ``data`` read files; ``factory``, ``pickle_scan`` and ``soundness``
guard what is loaded.
"""
