"""Which operators there are, told without loading them: JAX alone takes most of a second to import.

The list beside this file is written from the registry by `docs/make_operators.py`; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path

from naflow_core.errors import UnsupportedNode, not_registered
from naflow_core.model.graph import Graph

LIST = Path(__file__).with_suffix(".json")


def unknown_nodes(graph: Graph) -> list[UnsupportedNode]:
    """Nodes whose operator is not there by name, in graph order.

    Whether the others can be computed depends on versions, attributes and shapes: see `CoverageReport`.
    """
    listed = json.loads(LIST.read_text(encoding="utf-8"))
    known = {tuple(operator) for operator in listed["known"]}
    reasons = {(domain, op_type): reason for domain, op_type, reason in listed["refused"]}
    found = []
    for node in graph.nodes:
        operator = node.domain, node.op_type
        if operator not in known:
            reason = not_registered(*operator, node.version, reasons.get(operator))
            found.append(UnsupportedNode(node.name, node.op_type, reason))
    return found
