"""The model without model-local functions, for TensorRT with the plugin.

TensorRT's parser prefers a function to a plugin.
"""

from __future__ import annotations

import onnx
import onnx.inliner

from lccl.op.contract import DOMAIN, OP_TYPE


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with LCCLConv nodes without a function, and other functions inlined."""
    out = onnx.inliner.inline_selected_functions(model, [(DOMAIN, OP_TYPE)], exclude=True)
    others = {f.domain for f in model.functions} - {DOMAIN}
    del out.functions[:]
    kept = [o for o in out.opset_import if o.domain not in others]
    del out.opset_import[:]
    out.opset_import.extend(kept)
    return out
