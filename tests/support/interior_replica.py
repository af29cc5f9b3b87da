"""Flows inside composites, slowly: each interior tensor by its node's rule, forks by a dense solve.

Written from the definition alone: it walks the ONNX graph itself, finds by brute force where the branches of
a fork meet again, and inverts with explicit float64 matrices. Zero-gradient abandonment, retained rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from support import replicas
from support.replicas import Layer, Linearised

TINY = 1e-12


def interior_layers(
    model: ModelProto, x: np.ndarray, spine: Sequence[str], scores: str, target: int
) -> dict[str, Layer]:
    """B, G and R of every spine tensor and of every tensor on a path between two of them."""
    made = [name for node in model.graph.node for name in node.output]
    values = replicas.tensors(model, x, made) | {"x": np.asarray(x, np.float64)}
    head = Linearised.of(replicas.Function(model, spine[-1], scores, x), values[spine[-1]])
    gradient = head.matrix[target].reshape(values[spine[-1]].shape)
    layers = {spine[-1]: _layer(values[spine[-1]], gradient)}
    for source, end in zip(reversed(spine[:-1]), reversed(spine[1:]), strict=True):
        reached = _reached(model, source)
        inside = [n for n in made if n in reached and end in _reached(model, n)]
        for name in (*reversed(inside), source):
            meeting = _meeting(model, name, [*inside, end])
            layers[name] = _through(model, x, values, name, meeting, layers[meeting])
    return layers


def _layer(preimage: np.ndarray, gradient: np.ndarray) -> Layer:
    retained = gradient != 0
    return Layer(np.where(retained, preimage, 0), np.where(retained, gradient, 0), retained)


def _through(
    model: ModelProto, x: np.ndarray, values: dict[str, np.ndarray], name: str, meeting: str, above: Layer
) -> Layer:
    linear = Linearised.of(replicas.Function(model, name, meeting, x), values[name])
    readers = [node for node in model.graph.node if name in node.input and _leads(model, node, meeting)]
    only = readers[0] if len(readers) == 1 and meeting in readers[0].output else None
    preimage = None if only is None else _by_rule(only, name, values, above)
    if preimage is None:
        preimage = linear.preimage(above.bpfm, above.retained)
    return _layer(preimage, linear.pull(above.coefficients))


def _by_rule(node: NodeProto, name: str, values: dict[str, np.ndarray], above: Layer) -> np.ndarray | None:
    """What the method says of a node where it is more than a least-squares solve, else None."""
    b, x0 = above.bpfm, values[name]
    others = [other for other in node.input if other != name]
    if node.op_type == "Relu":
        return b
    if node.op_type == "Sigmoid":
        inside = np.clip(b, 1e-6, 1 - 1e-6)
        return np.log(inside / (1 - inside))
    if node.op_type == "Add" and x0.shape == b.shape:
        return b - values[others[0]]
    if node.op_type == "Mul" and x0.shape == b.shape:
        gate = np.broadcast_to(values[others[0]], b.shape)
        return np.divide(b, gate, out=np.zeros_like(b), where=np.abs(gate) > TINY)
    if node.op_type == "Concat":
        begin = 0
        for other in node.input[: list(node.input).index(name)]:
            begin += values[other].shape[1]
        return b[:, begin : begin + x0.shape[1]]
    return None


def _leads(model: ModelProto, node: NodeProto, name: str) -> bool:
    return any(out == name or name in _reached(model, out) for out in node.output)


def _meeting(model: ModelProto, name: str, candidates: Sequence[str]) -> str:
    """The first tensor that every path from `name` to the last candidate passes through."""
    end = candidates[-1]
    for other in candidates:
        behind = other != name and other in _reached(model, name)
        if behind and (other == end or end not in _reached(model, name, without=other)):
            return other
    raise AssertionError(f"{name} does not lead to {end}")


def _reached(model: ModelProto, name: str, without: str = "") -> set[str]:
    """Tensors that depend on `name`, once another one is taken out."""
    found = {name}
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(out for out in node.output if out != without)
    return found - {name}
