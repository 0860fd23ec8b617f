"""Files -> networks and models: ``torch_file`` and ``onnx``, and what guards them (``factory``, ``pickle_scan``, ``soundness``)."""
