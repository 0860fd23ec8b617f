"""LCCL in a graph of standard ops: a walk from every product to the convolution and the gate behind it.

* ``search``: all products of a graph, the last first. ``product``: one product, read and checked. ``rewrite``: the node in its place.
* ``reading``: a Where as the product or the ThresholdedRelu that it is, while products are read.
* ``branch``: the main branch; ``between``: what may not be on it. ``gates``: its gates, over ``clamp`` (elementwise steps), ``movement`` (views and upsampling),
  ``bounds`` (is it at least 0, can it be 0), ``masks`` (inputs that are gates) and ``geometry``.
"""

from lccl.graph.recognise.search import Found, NearMiss, Recognition, recognise

__all__ = ["Found", "NearMiss", "Recognition", "recognise"]
