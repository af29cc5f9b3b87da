"""Whether the pictures of a batch stay apart on the way to the scores."""

from __future__ import annotations

from naflow_core.errors import AnalysisError
from naflow_core.model.program import Known, Program, Step, thawed


def refuse_mixing(program: Program, scores: str) -> None:
    """Let a batch pass only if no picture's scores depend on the others.

    BatchNormalization written out in training mode takes its statistics over the batch: the coefficients of
    one picture would then hold shares of the others' scores.

    Raises:
        AnalysisError: a node reduces over the batch; with the node's name.
    """
    for position in program.needed((scores,)):
        step = program.steps[position]
        if _reduces_batch(program, step):
            raise AnalysisError(
                f"node {step.node.name!r} ({step.node.op_type}) mixes the pictures of a batch",
                hint="explain one picture at a time, or export the model for inference",
            )


def _reduces_batch(program: Program, step: Step) -> bool:
    source = step.sources[0] if step.sources else None
    if not step.node.op_type.startswith("Reduce") or not isinstance(source, str):
        return False
    shape = program.shapes.get(source, ())
    if not program.is_dynamic(source) or not shape or shape[0] == 1 or not program.numbers_pictures(source):
        return False
    attributes = thawed(step.attributes)
    given = step.sources[1] if len(step.sources) > 1 else None
    axes = given.value.tolist() if isinstance(given, Known) else attributes.get("axes")
    if axes is None or len(axes) == 0:
        return not attributes.get("noop_with_empty_axes", 0)
    return any(axis % len(shape) == 0 for axis in axes)
