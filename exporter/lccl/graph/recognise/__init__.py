"""Gated convolutions in a graph of standard ops, found from their products.

| file | owns |
|---|---|
| ``search`` | all products of a graph, the last first, and the result |
| ``normalize`` | the copy in which products are read: one spelling for each form |
| ``product`` | one product: read from either operand, and checked |
| ``branch``, ``blockers`` | its main branch, and what may not stand on it |
| ``gates`` | its gates: those that the op computes, and those that it is given |
| ``elementwise`` | the functions between a gate's convolution and the product, composed into one |
| ``rearrange`` | views, copies and nearest upsampling of a gate |
| ``intervals`` | whether a map is at least 0, and whether it can be 0 |
| ``masks`` | inputs of the network that are gates |
| ``geometry`` | strides, pads and dilations of a convolution and its gate |
| ``refusal``, ``context`` | why a product is no layer; what every step knows of the graph |
| ``rewrite`` | the LCCLConv node in the product's place |
"""

from lccl.graph.recognise.search import NearMiss, RecognisedLayer, Recognition, recognise

__all__ = ["NearMiss", "RecognisedLayer", "Recognition", "recognise"]
