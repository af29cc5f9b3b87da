"""The head: which tensor holds the scores, and where the top feature map is."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from naflow_core.analysis.embedding import before_embedding
from naflow_core.analysis.spine import cut_vertices
from naflow_core.errors import AnalysisError, UnsupportedOperatorError
from naflow_core.model.layout import Layout, positions
from naflow_core.model.program import Program, Step

SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
SHAPE_ONLY = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"})
QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
CHOOSING = frozenset({"ArgMax", "Hardmax", "TopK"})
PASSING = frozenset({"Identity", "Dropout", "Cast", "Transpose"})


@dataclass(frozen=True, slots=True)
class Head:
    """From the top feature map to the scores.

    Attributes:
        source: the explained graph input.
        output: the explained graph output; where that only tells the best classes (ArgMax, TopK, Hardmax),
            the scores that they are chosen from.
        scores: the tensor whose elements are the logits: the input of a closing Softmax, LogSoftmax or
            Sigmoid, else the output itself; in a quantised graph as it was before quantisation.
        squashed_by: op type of that closing node, "" if there is none.
        top: the top feature map.
        is_feature_map: the output itself has spatial axes (no class scores).
    """

    source: str
    output: str
    scores: str
    squashed_by: str
    top: str
    is_feature_map: bool


def find_head(
    program: Program,
    layouts: Mapping[str, Layout],
    *,
    output: str | None = None,
    top: str | None = None,
    source: str | None = None,
    embedding: bool = False,
) -> Head:
    """Locate scores and top feature map.

    Args:
        embedding: the output is an embedding to be compared, not class scores: a last convolution belongs to
            the trunk, not to the classifier.

    Raises:
        UnsupportedOperatorError: the output cannot be computed because a node is not supported.
        AnalysisError: nothing fits, or a name given by the user does not exist.
    """
    chosen = scores_output(program, output)
    begin = _choose_source(program, chosen, source)
    scores, squashed_by = _before_squashing(program, chosen)
    spine = cut_vertices(program, begin, scores)
    spatial = [
        n for n in spine if n in layouts and positions(program.shapes[n], layouts[n]) > 1 and n != begin
    ]
    if top is not None:
        if top not in spatial:
            raise _no_such("top feature map", top, spatial)
    elif not spatial:
        raise AnalysisError(
            f"no tensor with spatial axes lies on every path from {begin!r} to {chosen!r}"
            + (_where_paths_part(program, spine) or _where_pictures_are_folded(program, spine)),
            hint="NAFlow explains convolutional networks; name another --output or --top-feature-map",
        )
    else:
        top = _find_top(program, spine, spatial, chosen if embedding else scores, embedding)
    if embedding and chosen in spatial and layouts[chosen] != tuple(range(2, len(program.shapes[chosen]))):
        raise AnalysisError(
            f"output {chosen!r} is a feature map {list(program.shapes[chosen])} with its channels last",
            hint="local descriptors are compared where the output is [N, C, ...]; name another --output",
        )
    return Head(begin, chosen, scores, squashed_by, top, scores in spatial)


def _where_paths_part(program: Program, spine: Sequence[str]) -> str:
    """Names the first pair of neighbouring cut vertices with more than one node between them."""
    for before, after in itertools.pairwise(spine):
        if len(program.between(before, (after,))) > 1:
            return f": they part at {before!r} and meet again at {after!r}, which has none"
    return ""


def _where_pictures_are_folded(program: Program, spine: Sequence[str]) -> str:
    """Names the first tensor whose axis 0 holds more than the pictures."""
    for name in spine:
        shape = program.shapes[name]
        if len(shape) > 2 and not program.numbers_pictures(name):
            return f": axis 0 of {name!r} {list(shape)} is not that of the pictures"
    return ""


def scores_output(program: Program, output: str | None) -> str:
    """The output that is explained, `Head.output`.

    Raises:
        UnsupportedOperatorError, AnalysisError: as for `find_head`.
    """
    chosen = _before_choosing(program, _choose_output(program, output))
    if program.pictures > 1 and not program.numbers_pictures(chosen):
        raise AnalysisError(
            f"output {chosen!r} {list(program.shapes[chosen])} has no axis for the {program.pictures} "
            "pictures of a batch",
            hint="explain one picture at a time",
        )
    return chosen


def _choose_output(program: Program, wanted: str | None) -> str:
    made = program.producer
    outputs = list(program.outputs)
    if wanted is not None and wanted not in outputs:
        raise _no_such("output", wanted, outputs)
    scores = [name for name in outputs if name in made and name not in program.integers]
    if wanted is None and len(outputs) > 1 and len(scores) == 1 and not program.unsupported:
        wanted = scores[0]  # the others are labels or constants
    if wanted is None and len(outputs) > 1:
        raise AnalysisError(
            f"the model has {len(outputs)} outputs: {', '.join(outputs)}", hint="choose one with --output"
        )
    chosen = wanted or outputs[0]
    if chosen not in made:
        if program.unsupported:
            raise UnsupportedOperatorError(program.unsupported)
        raise AnalysisError(f"output {chosen!r} does not depend on the model's input")
    return chosen


def _choose_source(program: Program, output: str, wanted: str | None) -> str:
    if wanted is not None and wanted not in program.inputs:
        raise _no_such("input", wanted, list(program.inputs))
    candidates = [wanted] if wanted else [n for n, shape in program.inputs.items() if len(shape) >= 3]
    for name in candidates:
        if program.between(name, (output,)):
            return name
    raise AnalysisError(
        f"no picture-like input (rank 3 or more) leads to output {output!r}",
        hint=f"inputs are {', '.join(f'{n} {list(s)}' for n, s in program.inputs.items())}",
    )


def _step_making(program: Program, name: str) -> Step | None:
    return program.steps[program.producer[name]] if name in program.producer else None


def _before_choosing(program: Program, output: str) -> str:
    """What a closing ArgMax, TopK or Hardmax chooses from; the output itself where there is none."""
    found = name = output
    step = _step_making(program, name)
    while (
        step is not None and step.node.op_type in SHAPE_ONLY | CHOOSING and isinstance(step.sources[0], str)
    ):
        name = step.sources[0]
        found = name if step.node.op_type in CHOOSING else found
        step = _step_making(program, name)
    return found


def _before_squashing(program: Program, output: str) -> tuple[str, str]:
    name = output
    step = _step_making(program, name)
    while (
        step is not None and step.node.op_type in SHAPE_ONLY | QUANTISING and isinstance(step.sources[0], str)
    ):
        name = step.sources[0]
        step = _step_making(program, name)
    if step is not None and step.node.op_type in SQUASHING and isinstance(step.sources[0], str):
        return _before_quantising(program, step.sources[0]), step.node.op_type
    return _before_quantising(program, output), ""


def _before_quantising(program: Program, name: str) -> str:
    """The scores before they were quantised: the best class often lies at the end of the integers' range,
    where quantisation has no derivative left."""
    found = name
    step = _step_making(program, name)
    while (
        step is not None and step.node.op_type in SHAPE_ONLY | QUANTISING and isinstance(step.sources[0], str)
    ):
        name = step.sources[0]
        if step.node.op_type == "QuantizeLinear":
            found = name
        step = _step_making(program, name)
    return found


def _find_top(
    program: Program, spine: Iterable[str], spatial: list[str], scores: str, embedding: bool
) -> str:
    """The last spatial tensor, or the classifier's own input where the classifier is a 1x1 class map."""
    top = spatial[-1]
    if scores not in spatial and not embedding:
        for name in reversed(list(spine)):
            step = _step_making(program, name)
            if step is not None and step.node.op_type in WEIGHTED:
                if step.sources[0] in spatial:
                    top = str(step.sources[0])
                break
    top = before_embedding(program, top, spatial)
    step = _step_making(program, top)
    while step is not None and step.node.op_type in PASSING and step.sources[0] in spatial:
        top = str(step.sources[0])
        step = _step_making(program, top)
    return top


def _no_such(what: str, wanted: str, existing: Iterable[str]) -> AnalysisError:
    existing = list(existing)
    near = difflib.get_close_matches(wanted, existing, 3) or existing[-3:]
    return AnalysisError(
        f"{what} {wanted!r} does not exist or cannot be used", hint=f"there is {', '.join(near)}"
    )
