"""`naflow bench`: explanations beside a forward pass, and the first one in a new process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import naflow_core as nf
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import OUT, line, note, print_json
from naflow_cli.inputs import read_inputs
from naflow_cli.request import GROUPS
from naflow_cli.shapes import dims, given_shapes
from naflow_core.measure import Subject, compare, first_explanations, machine, noise

MB = 1e6
MOST_REPEATS = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What is measured; attributes are named as the options."""

    model: Path
    input: Path | None
    preprocess: str | None
    input_shape: tuple[str, ...]
    presets: tuple[str, ...]
    layers: str
    output: str | None
    top_feature_map: str | None
    repeats: int
    fresh: bool
    seed: int

    def check(self) -> None:
        """Raises:
        OptionError: values that cannot be, or that contradict each other.
        """
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise nf.OptionError(f"--repeats {self.repeats} must lie between 1 and {MOST_REPEATS}")
        if self.input is not None and self.input_shape:
            raise nf.OptionError(
                "--input-shape is for noise: an --input has a shape of its own", hint="leave one out"
            )
        if self.input is None and self.preprocess is not None:
            raise nf.OptionError("--preprocess is for a picture", hint="name one with --input")
        if self.seed < 0:
            raise nf.OptionError(f"--seed {self.seed} must not be negative")

    def wanted_layers(self) -> str | list[str]:
        """`layers` as `Model.explain` takes it."""
        return self.layers if self.layers in GROUPS else [name.strip() for name in self.layers.split(",")]


def time_model(request: Request, *, segments: bool, json: bool) -> None:
    """Measure, and print tables or one JSON object.

    Raises:
        NaflowError: an option is wrong, or the model cannot be read, explained, or run by onnxruntime.
    """
    request.check()
    methods = {name: nf.Method.preset(name) for name in request.presets}
    use_compilation_cache()
    model = nf.load(request.model)
    feeds = _feeds(request, model)
    subject = Subject(model, feeds, request.wanted_layers(), request.output, request.top_feature_map)
    found = compare(subject, methods, request.repeats)
    facts: dict[str, Any] = {
        "model": model.loaded.source.name,
        "machine": machine(),
        "inputs": {name: list(value.shape) for name, value in feeds.items()},
        "layers": request.layers,
        "repeats": request.repeats,
        "forward_seconds": found["forward"],
        "forward_backward_seconds": found["forward_backward"],
        "presets": [
            {"preset": name, **found["cascades"][name], "segments": found["segments"][name]}
            for name in methods
        ],
    }
    for row in facts["presets"] if request.fresh else ():
        row["first"] = first_explanations(
            request.model,
            feeds,
            methods[row["preset"]],
            layers=subject.layers,
            output=request.output,
            top_feature_map=request.top_feature_map,
        )
    if json:
        print_json(facts)
        return
    _show(facts)
    for row in facts["presets"] if segments else ():
        _show_segments(row)


def _feeds(request: Request, model: nf.Model) -> dict[str, np.ndarray]:
    shapes = given_shapes(request.input_shape, model.inputs)
    if request.input is None:
        return noise(model, shapes, request.seed)
    batch = read_inputs(model, [request.input], request.preprocess)
    note(batch.note, quiet=not batch.note)
    return batch.arrays


def _show(facts: dict[str, Any]) -> None:
    shapes = ", ".join(f"{name} {dims(shape)}" for name, shape in facts["inputs"].items())
    line(OUT, f"{facts['model']}: {shapes}; {facts['machine']}")
    line(OUT, f"medians of {facts['repeats']} rounds in milliseconds, layers: {facts['layers']}")
    table = _table(
        "", "ms", "x forward", "x fwd+bwd", "first flow", "layers", "solved", "unconverged", "iterations"
    )
    forward, both = facts["forward_seconds"], facts["forward_backward_seconds"]
    table.add_row("onnxruntime forward", _ms(forward), "1.0", f"{forward / both:.2f}")
    table.add_row("JAX forward and backward", _ms(both), f"{both / forward:.1f}", "1.00")
    for row in facts["presets"]:
        table.add_row(
            row["preset"],
            _ms(row["seconds"]),
            f"{row['per_forward']:.1f}",
            f"{row['per_forward_backward']:.2f}",
            f"{row['first_flow']:.2f}",
            str(row["layers"]),
            str(row["solved"]),
            str(row["unconverged"]),
            f"{row['iterations']:.0f}",
        )
    OUT.print(table)
    firsts = [(row["preset"], state, own) for row in facts["presets"] for state, own in _first(row)]
    if firsts:
        line(OUT, "first explanation in a new process, with an empty and with a filled compilation cache")
        table = _table("", "cache", "s from start", "first flow s", "compile s", "programs", "peak MB")
        for preset, state, own in firsts:
            table.add_row(
                preset,
                state,
                f"{own['started_to_end']:.2f}",
                f"{own['first_flow']:.2f}",
                f"{own['compile_seconds']:.2f}",
                str(own["programs"]),
                f"{own['memory_peak'] / MB:.0f}",
            )
        OUT.print(table)


def _first(row: dict[str, Any]) -> Sequence[tuple[str, dict[str, Any]]]:
    return tuple(row.get("first", {}).items())


def _show_segments(row: dict[str, Any]) -> None:
    line(OUT, f"{row['preset']}, by segment, deepest first")
    table = _table("tensor", "segment", "rule", "shape", "ms", "iterations", "ms each", "retained", left=4)
    for part in row["segments"]:
        each = part["seconds_per_iteration"]
        table.add_row(
            Text(part["tensor"]),
            part["segment"],
            part["rule"],
            dims(part["shape"]),
            _ms(part["seconds"]),
            f"{part['iterations']:.0f}" + ("" if part["converged"] else " (cap)"),
            "" if each is None else _ms(each),
            f"{part['retained']:.4f}",
        )
    OUT.print(table)


def _table(*titles: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < left else "right", overflow="fold")
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
