"""What must hold between the nodes of a graph: every name made once, made before it is read, no cycle."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from naflow_core.errors import ModelError


def describe(node: NodeProto) -> str:
    """How messages call a node: its name, else its first output."""
    label = node.name or next(filter(None, node.output), "")
    return f"node {label!r} ({node.op_type})" if label else f"an unnamed node ({node.op_type})"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs a node carries in its attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes and those of their subgraphs, at any depth."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def reads(node: NodeProto) -> set[str]:
    """Tensors this node needs, those that its subgraphs take from outside included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= _captured(graph)
    return names


def _captured(graph: GraphProto) -> set[str]:
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    needed = {value.name for value in graph.output}
    for node in graph.node:
        made.update(node.output)
        needed |= reads(node)
    return needed - made


def sort_nodes(graph: GraphProto, constants: Iterable[str]) -> None:
    """Check the graph and put its nodes in topological order, keeping the file's order where it can be.

    Args:
        constants: names that hold values before any node runs, besides the graph's inputs.

    Raises:
        ModelError: a tensor made twice, read but never made, or on a cycle.
    """
    known = {value.name for value in graph.input} | set(constants)
    producer = _producers(graph, known)
    needs: list[set[int]] = []
    for node in graph.node:
        names = reads(node) - known
        for name in sorted(names):
            if name not in producer:
                raise ModelError(f"{describe(node)} reads tensor {name!r}, which nothing in the graph makes")
        needs.append({producer[name] for name in names})
    for value in graph.output:
        if value.name not in producer and value.name not in known:
            raise ModelError(f"graph output {value.name!r} is made by no node")
    if all(not before or max(before) < index for index, before in enumerate(needs)):
        return
    order = _order(needs, graph)
    nodes = [NodeProto() for _ in order]
    for copy, index in zip(nodes, order, strict=True):
        copy.CopyFrom(graph.node[index])
    del graph.node[:]
    graph.node.extend(nodes)


def _producers(graph: GraphProto, known: set[str]) -> dict[str, int]:
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in known:
                raise ModelError(f"{describe(node)} makes tensor {name!r}, which is an input or initializer")
            if name in producer:
                first = describe(graph.node[producer[name]])
                raise ModelError(f"tensor {name!r} is made twice, by {first} and by {describe(node)}")
            producer[name] = index
    return producer


def _order(needs: list[set[int]], graph: GraphProto) -> list[int]:
    waiting = [len(before) for before in needs]
    readers: list[list[int]] = [[] for _ in needs]
    for index, before in enumerate(needs):
        for earlier in before:
            readers[earlier].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for later in readers[index]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, later)
    if len(order) < len(needs):
        stuck = _on_cycle({index for index, count in enumerate(waiting) if count}, needs)
        raise ModelError(f"the graph has a cycle through {describe(graph.node[stuck])}")
    return order


def _on_cycle(left: set[int], needs: list[set[int]]) -> int:
    """Every node left over waits for another one left over: going back long enough ends on a cycle."""
    index = min(left)
    seen: set[int] = set()
    while index not in seen:
        seen.add(index)
        index = min(needs[index] & left)
    return index


def used_domains(model: onnx.ModelProto) -> set[str]:
    """Every operator domain that a node of the graph or of a local function belongs to."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return {node.domain for body in bodies for node in all_nodes(body)}
