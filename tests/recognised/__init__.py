"""The named graphs of recognition: the forms in which gated convolutions come, and what looks like one and is none."""

from __future__ import annotations

from recognised.conditions import CONDITIONS
from recognised.families import BRANCHES, FAMILIES
from recognised.followers import FOLLOWERS
from recognised.gates import GATES
from recognised.parts import Graph
from recognised.refused import REFUSED

GRAPHS = (*FAMILIES, *BRANCHES, *GATES, *CONDITIONS, *FOLLOWERS, *REFUSED)

__all__ = ["GRAPHS", "Graph"]
