"""What to say where a network fixes a size that an export makes dynamic. It loads nothing of others."""

from lccl.errors import leave_out

FIXED_BATCH = "the exported batch is dynamic, so the model must not fix its size"
FIXED_HW = "the network fixes its input's height and width"
DYNAMIC_HW = leave_out("dynamic_hw")
