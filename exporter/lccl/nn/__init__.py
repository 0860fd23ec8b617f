"""What users build LCCL networks with: :class:`LCCLConv2d` and its gate."""

from lccl.nn.conv import LCCLConv2d
from lccl.nn.folded import FoldedLCCLConv2d, fold
from lccl.nn.gate import Gate

__all__ = ["FoldedLCCLConv2d", "Gate", "LCCLConv2d", "fold"]
