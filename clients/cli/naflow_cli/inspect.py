"""`naflow inspect`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import naflow_core as nf
from naflow_cli.console import ERR, OUT, line, print_json
from naflow_cli.shapes import dims, given_shapes
from naflow_core.model import LoadedModel, read_model
from naflow_core.model.catalogue import unknown_nodes

SHOWN = 5
"""Names that stand for a longer list."""


def inspect_model(
    model: Path,
    json: bool,
    output: str | None,
    top: str | None,
    explained_input: str | None,
    input_shape: Sequence[str],
) -> int:
    """Print the coverage report; 0 if the model can be explained, else 1."""
    loaded = read_model(model)
    named = _name_unknown(loaded, ERR if json else OUT)
    read = nf.Model(loaded)
    report = read.inspect(
        input_shapes=given_shapes(input_shape, read.inputs),
        output=output,
        top_feature_map=top,
        explained_input=explained_input,
    )
    if json:
        print_json(report.to_dict())
    else:
        _show(report, named)
    return 0 if report.explainable else 1


def _name_unknown(loaded: LoadedModel, console: Console) -> set[str]:
    """Name operators that are not there before JAX is imported, which takes longer than reading a model."""
    unknown = [] if "jax" in sys.modules else unknown_nodes(loaded.graph)
    for node in unknown:
        _unsupported(console, node.node, node.op_type, node.reason)
    return {node.node for node in unknown}


def _unsupported(console: Console, node: str, op_type: str, reason: str) -> None:
    line(console, f"not supported: node {node!r} ({op_type}): {reason}", "red")


def _show(report: nf.CoverageReport, named: set[str]) -> None:
    facts = report.to_dict()
    title = Text(facts["model"]["file"], "table.title")
    table = Table(title=title, show_header=False, box=None, title_justify="left")
    opsets = ", ".join(
        f"{domain or 'ai.onnx'} {version}" for domain, version in facts["model"]["opset"].items()
    )
    table.add_row("producer", Text(facts["model"]["producer"] or "not stated"))
    table.add_row("opset", Text(opsets))
    for kind in ("inputs", "outputs"):
        for spec in facts[kind]:
            shape = f"{spec['dtype']} {dims(spec['shape'])}"
            used = (
                f", analysed as {dims(spec['used_shape'])}"
                if spec["used_shape"] not in (None, spec["shape"])
                else ""
            )
            table.add_row(kind[:-1], Text(f"{spec['name']}  {shape}{used}"))
    if report.plan:
        table.add_row("top feature map", Text(f"{facts['top_feature_map']}"))
        if head := facts["head"]:
            unit = ", unit length" if head["unit_length"] else ""
            steps = " ".join(head["steps"])
            table.add_row("head", Text(f"{head['kind']} {dims(head['shape'])}: {steps or 'none'}{unit}"))
            if head["top_feature_map"] != facts["top_feature_map"]:
                table.add_row("for similarities", Text(f"top feature map {head['top_feature_map']}"))
        scores = facts["scores"]
        where = (
            "the output itself" if scores == facts["explained_output"] else "before the closing activation"
        )
        table.add_row("explained at", Text(f"{scores} ({where})"))
        classes = Counter(segment["class"] for segment in facts["segments"])
        composites = sum(segment["kind"] == "composite" for segment in facts["segments"])
        table.add_row("segments", f"{len(facts['segments'])} ({composites} composite): " + _counted(classes))
        flows = facts["flows"]
        table.add_row("flows", f"{flows['blocks']} blocks, {flows['spine']} spine, {flows['nodes']} nodes")
        cost = facts["cost"]
        table.add_row(
            "estimated cost",
            f"{short(cost['solve_multiply_adds'])} multiply-adds (solves of {cost['typical_iterations']} "
            f"iterations), at most {short(cost['memory_bytes'])}B of memory at a time",
        )
    OUT.print(table)
    if report.plan:
        OUT.print(_segments(facts))
        for group in facts["without_flow"]:
            names = group["tensors"]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            line(OUT, f"no flow: {', '.join(names[:SHOWN])}{more}: {group['reason']}")
        for note in facts["notes"]:
            line(OUT, note)
    for node in facts["unsupported"]:
        if node["node"] not in named:
            _unsupported(OUT, **node)
    if report.explainable:
        line(OUT, "This model can be explained.", "green")
    else:
        line(OUT, f"This model cannot be explained: {report.reason}", "red")


def _segments(facts: dict) -> Table:  # type: ignore[type-arg]
    table = Table(box=None, pad_edge=False)
    for title in ("", "nodes", "rule", "class", "output", "shape", "block"):
        table.add_column(title, overflow="fold")
    for title in ("J", "solve", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    shapes = {tensor["tensor"]: tensor["shape"] for tensor in facts["spine"]}
    blocks = set(facts["blocks"])
    for segment in facts["segments"]:
        ops = segment["op_types"]
        nodes = ops[0] if len(ops) == 1 else f"{len(ops)} nodes: {_counted(Counter(ops))}"
        ends = "end" if segment["output"] in blocks else ""
        output = Text(segment["output"])
        table.add_row(
            str(segment["index"]),
            nodes,
            segment["rule"],
            segment["class"],
            output,
            dims(shapes[segment["output"]]),
            ends,
            short(segment["cost"]["jacobian_multiply_adds"]),
            short(segment["cost"]["solve_multiply_adds"]),
            short(segment["cost"]["memory_bytes"]) + "B",
        )
    return table


def short(count: float) -> str:
    """A count in three digits and a unit: 950, 12.3 k, 4.56 G."""
    value, units = count, ["", "k", "M", "G", "T", "P"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}".strip()


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())
