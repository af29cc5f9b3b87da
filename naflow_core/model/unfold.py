"""If, Loop, Scan and sequences of tensors, resolved while a program is built.

Conditions, trip counts and positions that are known once the input shapes are known decide here which nodes
there are: the branch taken, or the body once for each step, under names that begin with the node's own.
What hangs on the picture itself is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from naflow_core.errors import Refusal
from naflow_core.model.graph import Body, Node
from naflow_core.ops.array import integers, normalise_axis, scalar

MOST_NODES = 100_000


class Builder(Protocol):
    """What unfolding needs of the program that is being built."""

    known: dict[str, np.ndarray]
    sequences: dict[str, tuple[str, ...]]
    unfolded: int

    def visit(self, node: Node) -> None:
        """Add one node."""

    def holds(self, name: str) -> bool:
        """Whether a tensor or sequence of that name is there."""

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is there."""


def unfold(builder: Builder, node: Node) -> bool:
    """Replace the node by simpler ones; False if it is not one for this module.

    Raises:
        Refusal: something that would have to be known depends on the model's input.
    """
    if node.domain == "" and node.op_type == "Identity" and node.inputs[0] in builder.sequences:
        builder.sequences[node.outputs[0]] = builder.sequences[node.inputs[0]]
        return True
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is not None:
        rule(builder, node)
    return rule is not None


def _known(builder: Builder, node: Node, position: int, what: str) -> np.ndarray:
    name = node.inputs[position]
    if name not in builder.known:
        raise Refusal(
            f"its {what} {name!r} depends on the model's input; only what is known beforehand is implemented"
        )
    return builder.known[name]


def _input(node: Node, position: int) -> str:
    return node.inputs[position] if position < len(node.inputs) else ""


def _emit(
    builder: Builder,
    node: Node,
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    **attributes: Any,
) -> None:
    name = f"{node.name}/{outputs[0]}"
    builder.visit(Node(name, op_type, "", node.version, tuple(inputs), tuple(outputs), attributes))


# Bodies --------------------------------------------------------------------------------------------


def _inline(
    builder: Builder, body: Body, given: Mapping[str, str], outputs: Sequence[str], prefix: str
) -> bool:
    """Visit a body's nodes with its inputs bound to outer names; its outputs get the names asked for
    ("" for none). False if a node could not be built."""
    scope = dict(given)
    for name, value in body.constants.items():
        scope[name] = f"{prefix}/{name}"
        builder.known[scope[name]] = value
    wanted = {}
    made = {name for node in body.nodes for name in node.outputs}
    for inner, outer in zip(body.outputs, outputs, strict=True):
        if outer and inner in made and inner not in wanted:
            wanted[inner] = outer
    for inner_node in body.nodes:
        builder.unfolded += 1
        if builder.unfolded > MOST_NODES:
            raise Refusal(f"unrolled, the graph has more than {MOST_NODES} nodes")
        renamed = _renamed(inner_node, scope)
        for name in filter(None, inner_node.outputs):
            scope[name] = wanted.get(name, f"{prefix}/{name}")
        label = f"{prefix}/{inner_node.name or next(filter(None, inner_node.outputs), '')}"
        results = tuple(scope[name] if name else "" for name in inner_node.outputs)
        builder.visit(
            Node(
                label, renamed.op_type, renamed.domain, renamed.version, renamed.inputs, results,
                renamed.attributes,
            )
        )  # fmt: skip
        if not all(builder.holds(name) for name in results if name):
            return False
    for inner, outer in zip(body.outputs, outputs, strict=True):
        source = scope.get(inner, inner)
        if outer and source != outer:
            label = f"{prefix}/{outer}"
            builder.visit(Node(label, "Identity", "", body.version, (source,), (outer,), {}))
    return all(builder.holds(name) for name in outputs if name)


def _renamed(node: Node, scope: Mapping[str, str]) -> Node:
    """The node reading outer names, inside its own bodies too."""
    attributes = {
        key: _renamed_body(value, scope) if isinstance(value, Body) else value
        for key, value in node.attributes.items()
    }
    inputs = tuple(scope.get(name, name) for name in node.inputs)
    return Node(node.name, node.op_type, node.domain, node.version, inputs, node.outputs, attributes)


def _renamed_body(body: Body, scope: Mapping[str, str]) -> Body:
    own = {*body.inputs, *body.constants, *(name for node in body.nodes for name in node.outputs)}
    outer = {name: other for name, other in scope.items() if name not in own}
    nodes = tuple(_renamed(node, outer) for node in body.nodes)
    outputs = tuple(outer.get(name, name) for name in body.outputs)
    return Body(nodes, body.inputs, outputs, body.constants, body.version)


def _body(node: Node, name: str) -> Body:
    body = node.attributes.get(name)
    if not isinstance(body, Body):
        raise Refusal(f"it has no attribute {name!r} with a graph")
    return body


def _if(builder: Builder, node: Node) -> None:
    condition = bool(scalar(_known(builder, node, 0, "condition"), "condition"))
    body = _body(node, "then_branch" if condition else "else_branch")
    _inline(builder, body, {}, node.outputs, node.name)


def _loop(builder: Builder, node: Node) -> None:
    body = _body(node, "body")
    count = len(node.inputs) - 2
    trips = (
        int(scalar(_known(builder, node, 0, "trip count"), "trip count")) if node.inputs[0] else MOST_NODES
    )
    going = bool(scalar(_known(builder, node, 1, "condition"), "condition")) if _input(node, 1) else True
    carried = list(node.inputs[2:])
    stacks: list[list[str]] = [[] for _ in node.outputs[count:]]
    step = 0
    while going and step < trips:
        prefix = f"{node.name}/{step}"
        names = [f"{prefix}/#{position}" for position in range(len(body.outputs))]
        builder.known[f"{prefix}/#step"] = np.array(step, np.int64)
        builder.known[f"{prefix}/#going"] = np.array(True)
        given = dict(zip(body.inputs, (f"{prefix}/#step", f"{prefix}/#going", *carried), strict=True))
        if not _inline(builder, body, given, names, prefix):
            return
        if names[0] not in builder.known:
            raise Refusal(
                f"its condition after step {step} depends on the model's input; only what is known beforehand"
                " is implemented"
            )
        going = bool(builder.known[names[0]].reshape(-1)[0])
        carried = names[1 : 1 + count]
        for stack, name in zip(stacks, names[1 + count :], strict=False):
            stack.append(name)
        step += 1
    _finish(builder, node, carried, [(stack, 0) for stack in stacks])


def _scan(builder: Builder, node: Node) -> None:
    body = _body(node, "body")
    scanned = int(scalar(np.asarray(node.attributes["num_scan_inputs"]), "num_scan_inputs"))
    count = len(node.inputs) - scanned
    carried, sources = list(node.inputs[:count]), node.inputs[count:]
    results = len(node.outputs) - count
    in_axes, backwards = _per(node, "scan_input_axes", scanned), _per(node, "scan_input_directions", scanned)
    out_axes, prepended = (
        _per(node, "scan_output_axes", results),
        _per(node, "scan_output_directions", results),
    )
    axes = [
        normalise_axis(axis, len(builder.shape_of(name))) for axis, name in zip(in_axes, sources, strict=True)
    ]
    lengths = {builder.shape_of(name)[axis] for name, axis in zip(sources, axes, strict=True)}
    if len(lengths) != 1:
        raise Refusal(f"its scanned inputs have different lengths: {sorted(lengths)}")
    length = lengths.pop()
    stacks: list[list[str]] = [[] for _ in range(results)]
    for step in range(length):
        prefix = f"{node.name}/{step}"
        slices = []
        for number, (name, axis, reverse) in enumerate(zip(sources, axes, backwards, strict=True)):
            at = f"{prefix}/#at{number}"
            builder.known[at] = np.array(length - 1 - step if reverse else step, np.int64)
            slices.append(f"{prefix}/#slice{number}")
            _emit(builder, node, "Gather", (name, at), (slices[-1],), axis=axis)
        names = [f"{prefix}/#{position}" for position in range(len(body.outputs))]
        given = dict(zip(body.inputs, (*carried, *slices), strict=True))
        if not _inline(builder, body, given, names, prefix):
            return
        carried = names[:count]
        for stack, name, front in zip(stacks, names[count:], prepended, strict=True):
            stack.insert(0, name) if front else stack.append(name)
    _finish(builder, node, carried, list(zip(stacks, out_axes, strict=True)))


def _per(node: Node, attribute: str, count: int) -> tuple[int, ...]:
    given = node.attributes.get(attribute)
    return integers(given) if given is not None else (0,) * count


def _finish(
    builder: Builder, node: Node, carried: Sequence[str], stacks: Iterable[tuple[list[str], int]]
) -> None:
    """Name the last values of what was carried along, and stack what each step gave."""
    for name, output in zip(carried, node.outputs, strict=False):
        if output:
            _emit(builder, node, "Identity", (name,), (output,))
    for (parts, axis), output in zip(stacks, node.outputs[len(carried) :], strict=True):
        if output:
            _join(builder, node, parts, output, axis, new_axis=True)


def _join(
    builder: Builder, node: Node, parts: Sequence[str], output: str, axis: int, *, new_axis: bool
) -> None:
    if not parts:
        raise Refusal("it joins no tensors at all")
    if new_axis:
        at = f"{node.name}/#axis"
        builder.known[at] = np.array([axis], np.int64)
        for part in parts:
            _emit(builder, node, "Unsqueeze", (part, at), (f"{output}/{part}",))
        parts = [f"{output}/{part}" for part in parts]
    _emit(builder, node, "Concat", parts, (output,), axis=axis)


# Sequences -----------------------------------------------------------------------------------------


def _sequence(builder: Builder, node: Node) -> list[str]:
    name = node.inputs[0]
    if name not in builder.sequences:
        raise Refusal(f"input {name!r} is not a sequence made in this graph")
    return list(builder.sequences[name])


def _position(builder: Builder, node: Node, at: int, length: int, default: int) -> int:
    if not _input(node, at):
        return default
    position = int(scalar(_known(builder, node, at, "position"), "position"))
    if not -length <= position <= length:
        raise Refusal(f"position {position} lies outside a sequence of {length} tensors")
    return position + length if position < 0 else position


def _construct(builder: Builder, node: Node) -> None:
    builder.sequences[node.outputs[0]] = tuple(node.inputs)


def _empty(builder: Builder, node: Node) -> None:
    builder.sequences[node.outputs[0]] = ()


def _insert(builder: Builder, node: Node) -> None:
    items = _sequence(builder, node)
    items.insert(_position(builder, node, 2, len(items), len(items)), node.inputs[1])
    builder.sequences[node.outputs[0]] = tuple(items)


def _erase(builder: Builder, node: Node) -> None:
    items = _sequence(builder, node)
    position = _position(builder, node, 1, len(items), len(items) - 1)
    builder.sequences[node.outputs[0]] = tuple(items[:position] + items[position + 1 :])


def _length(builder: Builder, node: Node) -> None:
    builder.known[node.outputs[0]] = np.array(len(_sequence(builder, node)), np.int64)


def _at(builder: Builder, node: Node) -> None:
    items = _sequence(builder, node)
    position = _position(builder, node, 1, len(items), 0)
    if position >= len(items):
        raise Refusal(f"position {position} lies outside a sequence of {len(items)} tensors")
    _emit(builder, node, "Identity", (items[position],), node.outputs[:1])


def _split(builder: Builder, node: Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    shape = builder.shape_of(source)
    axis = normalise_axis(int(scalar(np.asarray(node.attributes.get("axis", 0)), "axis")), len(shape))
    length, squeezed = shape[axis], False
    if _input(node, 1):
        given = _known(builder, node, 1, "split")
        each = int(scalar(given, "split")) if given.ndim == 0 else 0
        if given.ndim == 0 and each < 1:
            raise Refusal(f"pieces of {each} cells are not possible")
        sizes = (
            [min(each, length - at) for at in range(0, length, each)]
            if given.ndim == 0
            else list(integers(given))
        )
    else:
        sizes, squeezed = [1] * length, not node.attributes.get("keepdims", 1)
    parts = [f"{output}/{number}" for number in range(len(sizes))]
    builder.known[f"{output}/#sizes"] = np.array(sizes, np.int64)
    _emit(builder, node, "Split", (source, f"{output}/#sizes"), parts, axis=axis)
    if squeezed:
        builder.known[f"{output}/#axis"] = np.array([axis], np.int64)
        for part in parts:
            _emit(builder, node, "Squeeze", (part, f"{output}/#axis"), (f"{part}/squeezed",))
        parts = [f"{part}/squeezed" for part in parts]
    builder.sequences[output] = tuple(parts)


def _concat(builder: Builder, node: Node) -> None:
    axis = int(scalar(np.asarray(node.attributes["axis"]), "axis"))
    new_axis = bool(node.attributes.get("new_axis", 0))
    _join(builder, node, _sequence(builder, node), node.outputs[0], axis, new_axis=new_axis)


_RULES: dict[str, Callable[[Builder, Node], None]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "SequenceAt": _at,
    "SplitToSequence": _split,
    "ConcatFromSequence": _concat,
}
UNFOLDED = frozenset(("", op_type) for op_type in _RULES)
"""What is replaced, as (domain, op type)."""
