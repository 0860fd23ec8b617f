"""The forms of a model, one file each: takes a model, gives the same network in another form.

| form | for |
|---|---|
| ``canonical`` | the file that is written: LCCLConv nodes and the op's function |
| ``runnable`` | ONNX Runtime without the op's library |
| ``stripped`` | TensorRT with the plugin |
| ``inlined`` | TensorRT without the plugin, TensorRT for RTX: standard ops |
| ``precision`` | engines in float16 or bfloat16 |
| ``upcast`` | bfloat16 where a runtime has none |
| ``dense`` | the dense twin: every gate taken as 1, in standard ops |
| ``open_gates`` | every gate 1, by the op itself |
| ``relaxed``, ``relaxed_products`` | checks of gates that jump at their edge |
"""
