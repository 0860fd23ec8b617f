"""Loading of networks and models from files.

``torch_file`` and ``onnx`` read files; ``factory``, ``pickle_scan`` and ``soundness`` guard what is
loaded.
"""
