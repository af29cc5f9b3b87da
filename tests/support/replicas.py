"""Slow dense re-implementations of the method in plain numpy float64, to hold the product against.

The forward functions run in ONNX's reference evaluator (float64, no JAX); Jacobians are explicit matrices
from differences; every inverse is a dense solve. One picture at a time, tiny graphs only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import lsmr

STEP = 1e-5


class Function:
    """The part of a model between two tensors, as a float64 function of a batch.

    Everything else that it reads keeps the value it has for the picture `x` at the model's input "x".
    """

    def __init__(self, model: ModelProto, source: str, target: str, x: np.ndarray | None = None) -> None:
        model = doubled(model)
        nodes, fixed = _between(model, source, target)
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        if fixed:
            constants.update(tensors(model, x, fixed))
        self._source, self._held = source, fixed
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "part",
            [helper.make_tensor_value_info(source, TensorProto.DOUBLE, None)],
            [helper.make_tensor_value_info(target, TensorProto.DOUBLE, None)],
            [numpy_helper.from_array(a, n) for n, a in constants.items() if n in used],
        )
        part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        self._run = ReferenceEvaluator(part)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self._held:  # held values belong to one picture
            return np.concatenate([self._once(row[None]) for row in x])
        return self._once(x)

    def _once(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._run.run(None, {self._source: np.asarray(x, np.float64)})[0], np.float64)


def tensors(model: ModelProto, x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Forward values of named tensors for the input "x", in float64."""
    model = doubled(model)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in names)
    values = ReferenceEvaluator(model).run(None, {"x": np.asarray(x, np.float64)})
    return dict(zip(names, map(np.asarray, values), strict=True))


def doubled(model: ModelProto) -> ModelProto:
    """The same model computing in float64."""
    twin = ModelProto()
    twin.CopyFrom(model)
    for value in (*twin.graph.input, *twin.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in twin.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            node.attribute[0].i = TensorProto.DOUBLE
    constants = [numpy_helper.to_array(t) for t in twin.graph.initializer]
    names = [t.name for t in twin.graph.initializer]
    del twin.graph.initializer[:]
    scales = {node.input[2] for node in twin.graph.node if node.op_type == "Resize" and len(node.input) > 2}
    for name, array in zip(names, constants, strict=True):
        wide = array.astype(np.float64) if array.dtype == np.float32 and name not in scales else array
        twin.graph.initializer.append(numpy_helper.from_array(np.asarray(wide), name))
    return twin


def _between(model: ModelProto, source: str, target: str) -> tuple[list[onnx.NodeProto], list[str]]:
    """Nodes on the paths from source to target, and the other tensors they read that depend on the input."""
    moving = {i.name for i in model.graph.input}
    reached = {source}
    for node in model.graph.node:
        if any(n in moving for n in node.input):
            moving.update(node.output)
        if any(n in reached for n in node.input) and source not in node.output:
            reached.update(node.output)
    wanted, nodes = {target}, []
    for node in reversed(model.graph.node):
        if any(n in wanted and n in reached and n != source for n in node.output):
            nodes.append(node)
            wanted.update(node.input)
    nodes.reverse()
    held = {n for node in nodes for n in node.input if n in moving and n not in reached}
    return nodes, sorted(held)


def jacobian(function: Function, x: np.ndarray) -> np.ndarray:
    """Explicit Jacobian [outputs, inputs] at one picture x [1, ...].

    Second-order differences from the left: at 0 a Relu has the derivative 0 there, as in the product.
    """
    flat = np.asarray(x, np.float64).reshape(1, -1)
    step = STEP * max(1.0, float(np.abs(flat).max()))
    moves = step * np.eye(flat.size)
    points = np.concatenate([flat, flat - moves, flat - 2 * moves]).reshape(-1, *x.shape[1:])
    values = function(points).reshape(2 * flat.size + 1, -1)
    near, far = values[0] - values[1 : flat.size + 1], values[0] - values[flat.size + 1 :]
    matrix = (4 * near - far).T / (2 * step)
    matrix[np.abs(matrix) < 1e-8 * max(np.abs(matrix).max(), 1e-30)] = 0.0  # what differences leave of a zero
    return matrix


@dataclass(frozen=True)
class Linearised:
    """A segment at one forward activation: t_k = J t_{k-1} + r_0 there."""

    matrix: np.ndarray
    offset: np.ndarray
    x0: np.ndarray
    y0: np.ndarray

    @classmethod
    def of(cls, function: Function, x0: np.ndarray) -> Linearised:
        y0, matrix = function(x0), jacobian(function, x0)
        return cls(matrix, y0.reshape(-1) - matrix @ x0.reshape(-1), np.asarray(x0, np.float64), y0)

    def pull(self, u: np.ndarray) -> np.ndarray:
        """J^T u, shaped like x0."""
        return (self.matrix.T @ u.reshape(-1)).reshape(self.x0.shape)

    def preimage(
        self,
        y: np.ndarray,
        rows: np.ndarray,
        *,
        damping: float = 0.0,
        anchor: str = "origin",
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> np.ndarray:
        """argmin ||M (J x - r)||, r = y - r_0, as METHOD.md section 4 defines it; one picture, one system."""
        kept = rows.reshape(-1).astype(bool)
        a = self.matrix[kept]
        right = (y.reshape(-1) - self.offset)[kept]
        start = self.x0.reshape(-1) if anchor == "activation" else np.zeros(self.x0.size)
        unit = np.ones(self.x0.size)
        low, high = bounds
        if anchor == "relative":  # x = q t: the columns are multiplied by t, and q is not negative
            unit = self.x0.reshape(-1)
            a = a * unit
            low, high = np.where(unit < 0, -high, low), np.where(unit < 0, -low, high)
            size = np.where(unit == 0, 1, np.abs(unit))
            low, high = np.maximum(low, 0) / size, np.where(unit == 0, np.inf, high / size)
            low = np.minimum(low, high)
        whole, right = right, right - a @ start
        if 1024 * np.abs(whole).max(initial=0) <= np.abs(right).max(initial=0):
            whole = right
        if whole.any():  # damping is relative to the gain of the system
            damping *= np.linalg.norm(a.T @ whole) / np.linalg.norm(whole)
        if np.isfinite(low).any() or np.isfinite(high).any():
            a = np.concatenate([a, damping * np.eye(a.shape[1])])
            right = np.concatenate([right, np.zeros(a.shape[1])])
            x = lsq_linear(a, right, (low - start, high - start), tol=1e-13, lsmr_tol="auto").x
        elif damping:
            x = lsmr(a, right, damp=damping, atol=1e-13, btol=1e-13, maxiter=5000)[0]
        else:
            x = np.linalg.lstsq(a, right, rcond=1e-7)[0]
        return (start + unit * x).reshape(self.x0.shape)


def smallest_set(contribution: np.ndarray, mass: float) -> np.ndarray:
    """Boolean: the largest contributions of one picture that make up `mass` of the total, ties together."""
    flat = contribution.astype(np.float64).reshape(-1)
    order = np.sort(flat)[::-1]
    if order[0] == 0:
        return np.zeros(contribution.shape, bool)
    count = int(np.searchsorted(np.cumsum(order), mass * order.sum() * (1 - 1e-7)))
    return contribution >= order[min(count, len(order) - 1)].astype(contribution.dtype)


def soft_set(contribution: np.ndarray, mass: float) -> np.ndarray:
    """Shares 0 to 1 of one picture: a ramp in the logarithm around the least of `smallest_set`."""
    hard = smallest_set(contribution, mass)
    if not hard.any():
        return np.zeros(contribution.shape)
    place = np.log2(np.maximum(contribution.astype(np.float64), 1e-300) / contribution[hard].min())
    return np.clip((place + 1) / 2, 0, 1)


def graded_set(contribution: np.ndarray, mass: float) -> np.ndarray:
    """Shares 0 to 1 of one picture: in proportion to the least of `smallest_set`, 0 below a 64th of it."""
    hard = smallest_set(contribution, mass)
    if not hard.any():
        return np.zeros(contribution.shape)
    share = contribution.astype(np.float64) / contribution[hard].min()
    return np.where(share * 64 >= 1, np.minimum(share, 1), 0)


def unpool(
    y: np.ndarray, retained: np.ndarray, x0: np.ndarray, kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], pads_lo: Sequence[int],
) -> np.ndarray:  # fmt: skip
    """Max unpooling with loops: every retained window sends its value to the first of its maxima."""
    total, count = np.zeros(x0.shape), np.zeros(x0.shape)
    spatial = x0.shape[2:]
    for index in np.ndindex(*y.shape):
        if not retained[index]:
            continue
        best, where = -np.inf, None
        for offset in itertools.product(*(range(k) for k in kernel)):
            cell = tuple(
                o * s + k * d - lo
                for o, s, k, d, lo in zip(index[2:], strides, offset, dilations, pads_lo, strict=True)
            )
            if all(0 <= c < n for c, n in zip(cell, spatial, strict=True)) and x0[index[:2] + cell] > best:
                best, where = x0[index[:2] + cell], index[:2] + cell
        assert where is not None
        total[where] += y[index]
        count[where] += 1
    return total / np.maximum(count, 1)


def flow(b: np.ndarray, g: np.ndarray, net: bool = False) -> np.ndarray:
    """F = sum over channels (and groups of them) of relu(B G), or relu of the sum, for [1, C..., H, W]."""
    axes = tuple(range(1, b.ndim - 2))
    return np.maximum((b * g).sum(axis=axes), 0) if net else np.maximum(b * g, 0).sum(axis=axes)


@dataclass(frozen=True)
class Options:
    """The options of the method that the dense cascade knows.

    `mass` None is the zero-gradient rule; `each` chooses the mass anew at every tensor, also before a Relu;
    `soft` gives the set a soft edge; `balanced` makes it of two such sets, for the target and against it, and
    `graded` of two sets that fade out in proportion; `net` lets evidence against the target count in the
    flows.
    """

    rows: str = "retained"
    mass: float | None = None
    each: bool = False
    soft: bool = False
    feasible: bool = False
    anchor: str = "origin"
    damping: float = 0.0
    net: bool = False
    balanced: bool = False
    graded: bool = False


@dataclass(frozen=True)
class Layer:
    """B, G, R and the flow of one tensor, [1, ...]."""

    bpfm: np.ndarray
    coefficients: np.ndarray
    retained: np.ndarray
    net: bool = False

    @property
    def flow(self) -> np.ndarray:
        return flow(self.bpfm, self.coefficients, self.net)


def cascade(
    model: ModelProto, x: np.ndarray, spine: Sequence[str], scores: str, target: int, options: Options
) -> dict[str, Layer]:
    """METHOD.md section 2 with dense matrices, for a spine of Relus and least-squares segments.

    A tensor made by a Relu, or joined from such, lies in [0, inf); a neuron is on where the next such tensor
    from it on is positive.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    values = tensors(model, x, list(spine[1:])) | {spine[0]: np.asarray(x, np.float64)}
    head = Linearised.of(Function(model, spine[-1], scores, x), values[spine[-1]])
    layers: dict[str, Layer] = {}
    upper, coefficients, preimage = (
        None,
        head.matrix[target].reshape(values[spine[-1]].shape),
        values[spine[-1]],
    )
    for position in range(len(spine) - 1, -1, -1):
        name = spine[position]
        if upper is not None:
            linear = Linearised.of(Function(model, name, spine[position + 1], x), values[name])
            coefficients = linear.pull(upper.coefficients)
            if made_by[spine[position + 1]].op_type == "Relu":
                preimage = upper.bpfm
            else:
                preimage = _solve(linear, upper, _on(values, made_by, spine[position + 1 :]), options,
                                  _from_relu(made_by, name))  # fmt: skip
        share = (coefficients != 0).astype(np.float64)
        mixed = upper is None or made_by[spine[position + 1]].op_type != "Relu"
        if options.mass is not None and (mixed or options.each):
            choose = soft_set if options.soft else smallest_set
            pushes = values[name] * coefficients
            if options.balanced or options.graded:
                choose = graded_set if options.graded else soft_set
                share = sum(choose(np.maximum(side * pushes, 0), options.mass) for side in (1, -1))
            else:
                share = choose(np.abs(pushes), options.mass).astype(np.float64)
        upper = Layer(share * preimage, share * coefficients, share > 0, options.net)
        layers[name] = upper
    return layers


def _on(
    values: dict[str, np.ndarray], made_by: dict[str, onnx.NodeProto], names: Sequence[str]
) -> np.ndarray:
    following = next(name for name in names if _from_relu(made_by, name))
    return values[following] > 0


def _from_relu(made_by: dict[str, onnx.NodeProto], name: str) -> bool:
    node = made_by.get(name)
    if node is not None and node.op_type == "Concat":
        return all(_from_relu(made_by, part) for part in node.input)
    return node is not None and node.op_type == "Relu"


def _solve(linear: Linearised, upper: Layer, on: np.ndarray, options: Options, from_relu: bool) -> np.ndarray:
    rows = {
        "retained": upper.retained,
        "active": upper.retained | on,
        "all": np.ones_like(upper.retained),
    }[options.rows]
    anchor = options.anchor
    if anchor == "signed":
        anchor = "origin" if from_relu else "activation"
    bounds = (0.0, np.inf) if options.feasible and from_relu else (-np.inf, np.inf)
    return linear.preimage(upper.bpfm, rows, damping=options.damping, anchor=anchor, bounds=bounds)
