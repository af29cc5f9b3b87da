"""Which axes of a tensor are spatial.

Exporters from channels-last frameworks put Transposes around convolutions, and graphs carry no axis names.
Convolutions, pooling and their kin fix the layout of their operands (ONNX: batch, channels, then spatial
axes); from there it spreads through the steps that keep or move axes, in both directions, until nothing
changes. The batch is always axis 0; every axis that is neither batch nor spatial counts as channels.
"""

from __future__ import annotations

from naflow_core.model.program import Program, Step, thawed

Layout = tuple[int, ...]

CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}
    | {"DepthToSpace", "SpaceToDepth", "Resize"}
    | {"LpPool", "GlobalLpPool", "MaxUnpool", "GridSample", "DeformConv"}
)
AXIS_KEEPING = frozenset(
    {"Pad", "Slice", "Split", "Concat", "Identity", "Dropout", "Cast", "Tile", "Expand", "Resize"}
    | {"Softmax", "LogSoftmax", "LayerNormalization", "QuantizeLinear", "DequantizeLinear"}
    | {"Mean", "Sum", "Min", "Max"}
    | {"LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Hardmax", "CumSum"}
    | {"CenterCropPad", "DynamicQuantizeLinear", "Gather", "GatherElements", "ReverseSequence"}
    | {"ScatterElements", "ScatterND", "TopK", "Trilu"}
)
RESHAPING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


def infer_layouts(program: Program) -> dict[str, Layout]:
    """Spatial axes, in increasing order, of every tensor where they are known.

    A tensor whose axis 0 does not number the pictures (channels or frames were folded into it) has none: what
    belongs to which picture is not seen from outside.
    """
    layouts: dict[str, Layout] = {}
    for step in program.steps:
        if step.node.op_type in CHANNELS_FIRST:
            for name in (step.sources[0], step.outputs[0]):
                if isinstance(name, str):
                    _assume(layouts, name, tuple(range(2, len(program.shapes.get(name, ())))))
    changed = True
    while changed:
        before = len(layouts)
        for step in program.steps:
            _spread(program, step, layouts)
        for step in reversed(program.steps):
            _spread(program, step, layouts)
        changed = len(layouts) > before
    return {
        name: layout
        for name, layout in layouts.items()
        if program.is_dynamic(name) and program.numbers_pictures(name)
    }


def _assume(layouts: dict[str, Layout], name: str, layout: Layout) -> None:
    if layout and name not in layouts:
        layouts[name] = layout


def _spread(program: Program, step: Step, layouts: dict[str, Layout]) -> None:
    inputs = [s for s in step.sources if isinstance(s, str) and program.is_dynamic(s)]
    outputs = [name for name in step.outputs if name]
    if not inputs or not outputs:
        return
    kind = step.node.op_type
    if kind == "Transpose":
        _through_transpose(program, step, layouts)
    elif kind in RESHAPING:
        _through_reshape(program, inputs[0], outputs[0], layouts)
    elif step.operator.pointwise or kind in AXIS_KEEPING or _keeps_reduced_axes(step):
        rank = len(program.shapes[outputs[0]])
        names = [n for n in (*inputs, *outputs) if len(program.shapes[n]) == rank]
        known = next((layouts[n] for n in names if n in layouts), None)
        if known is not None:
            for name in names:
                _assume(layouts, name, known)


def _keeps_reduced_axes(step: Step) -> bool:
    return step.node.op_type.startswith("Reduce") and bool(thawed(step.attributes).get("keepdims", 1))


def _through_transpose(program: Program, step: Step, layouts: dict[str, Layout]) -> None:
    source, target = step.sources[0], step.outputs[0]
    assert isinstance(source, str)
    rank = len(program.shapes[source])
    order = thawed(step.attributes).get("perm") or tuple(reversed(range(rank)))
    if order[0] != 0:  # the batch moves: the tensor cannot be cut into pictures
        return
    if source in layouts:
        _assume(layouts, target, tuple(j for j, i in enumerate(order) if i in layouts[source]))
    elif target in layouts:
        _assume(layouts, source, tuple(sorted(order[j] for j in layouts[target])))


def _through_reshape(program: Program, source: str, target: str, layouts: dict[str, Layout]) -> None:
    """Follow spatial axes through a node that keeps the order of the elements.

    They can be followed where only the channels before them are regrouped, and where only axes of length 1
    come, go or move (Keras' 1-D convolutions, and the channel axis of one-channel inputs).
    """
    for known, other in ((source, target), (target, source)):
        if known not in layouts or other in layouts:
            continue
        shape, other_shape, layout = program.shapes[known], program.shapes[other], layouts[known]
        if not shape or not other_shape or shape[0] != other_shape[0]:
            continue
        count = len(layout)
        trailing = layout == tuple(range(len(shape) - count, len(shape)))
        if trailing and len(other_shape) > count + 1 and shape[-count:] == other_shape[-count:]:
            _assume(layouts, other, tuple(range(len(other_shape) - count, len(other_shape))))
        elif len(other_shape) <= len(shape):  # which of more axes are spatial, another node must tell
            _assume(layouts, other, _without_ones(shape, other_shape, layout))


def _without_ones(shape: tuple[int, ...], other: tuple[int, ...], layout: Layout) -> Layout:
    """Spatial axes of `other`, if the two shapes are equal but for axes of length 1; else none."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    other_axes = [axis for axis in range(1, len(other)) if other[axis] > 1]
    if [shape[axis] for axis in axes] != [other[axis] for axis in other_axes]:
        return ()
    return tuple(there for here, there in zip(axes, other_axes, strict=True) if here in layout)


def positions(shape: tuple[int, ...], layout: Layout) -> int:
    """How many spatial positions a tensor has."""
    count = 1
    for axis in layout:
        count *= shape[axis]
    return count
