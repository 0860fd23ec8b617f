"""The named graphs of recognition: the forms in which gated convolutions come, and what looks like one and is none."""

from __future__ import annotations

from support.graphs.recognised.conditions import CONDITIONS
from support.graphs.recognised.families import BRANCHES, FAMILIES
from support.graphs.recognised.followers import FOLLOWERS
from support.graphs.recognised.gates import GATES
from support.graphs.recognised.parts import Graph
from support.graphs.recognised.refused import REFUSED
from support.graphs.recognised.sizes import COMPUTED_SIZES

GRAPHS = (*FAMILIES, *BRANCHES, *GATES, *CONDITIONS, *FOLLOWERS, *COMPUTED_SIZES, *REFUSED)

__all__ = ["GRAPHS", "Graph"]
