"""The spine: the tensors that every path from the input to the top feature map passes through."""

from __future__ import annotations

from naflow_core.model.program import Program


def cut_vertices(program: Program, source: str, sink: str) -> tuple[str, ...]:
    """Tensors on every path from `source` to `sink`, both included, in order.

    A tensor is on every path exactly when (paths from the source to it) x (paths from it to the sink) is the
    number of all paths. Python integers keep the counts exact however many paths there are.
    """
    path = program.between(source, (sink,))
    from_source = {source: 1}
    for i in path:
        step = program.steps[i]
        arriving = sum(from_source.get(s, 0) for s in _tensor_sources(program, i))
        for name in step.outputs:
            if program.passes_on(source, name):  # positions and the like are held where they are
                from_source[name] = arriving
    to_sink = {sink: 1}
    for i in reversed(path):
        step = program.steps[i]
        leaving = sum(to_sink.get(name, 0) for name in step.outputs if name)
        for name in _tensor_sources(program, i):
            if name in from_source and name != sink:
                to_sink[name] = to_sink.get(name, 0) + leaving
    total = from_source.get(sink, 0)
    order = [source, *(name for i in path for name in program.steps[i].outputs if name)]
    return tuple(n for n in order if total and from_source.get(n, 0) * to_sink.get(n, 0) == total)


def _tensor_sources(program: Program, position: int) -> list[str]:
    """Distinct dynamic inputs of a step: a tensor that is read twice by one step is one edge."""
    sources = program.steps[position].sources
    return list(dict.fromkeys(s for s in sources if isinstance(s, str) and program.is_dynamic(s)))
