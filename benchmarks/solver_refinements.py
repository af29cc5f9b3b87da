"""What refinements of the least-squares solver would gain, segment by segment on real cascades.

    python benchmarks/solver_refinements.py [--networks digits SqueezeNet ...] [--settings positive paper ...]
                                            [--size 112] [--tensors NAME ...] [--repeats 3] [--json FILE]

Nothing of this is in the solver. Every variant solves the very systems of the cascade, to the same relative
residual of the same normal equations, in programs that take turns. Sums over segments are weighted with time:
preparation, plus iterations times the time of one. Every solve is one system with its channels first, also
where the product lays it out in another way. Networks: the bundled one, seeded graphs at the chosen size, and
at 224 px those with weights where NAFLOW_ZOO names a folder. Six tables:

    rows         shares of what the equations that count lie on: neurons; cells; the smallest box around these
                 cells; tiles of 8x8 cells. A solve on part of the map could save no more than the rest.
    diagonal     iterations and time with a diagonal preconditioner (in solves with bounds, a change of
                 variables): exact column norms for a single convolution, 8 random sign probes otherwise
    Fourier      convolutions of stride 1, damped and without bounds: iterations as now, and with
                 one matrix for each frequency, which counts every row by its channel's mean
    blocks       residual blocks, damped and without bounds: as now, with the diagonal of the identity part,
                 and with one step of Neumann's series on either side of it
    ahead        what could be done before the solve above has ended: linearisation and first products
    cells        segments solved cell by cell as it is, against iterations

"difference" is the largest relative difference of two solutions, both run to a tolerance of 1e-5 where there
is damping, and so a single solution: it is what shows that a variant solves the same problem. Where there is
no damping a preconditioner may lead to another solution, and the difference says how far away that is.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from networks import LIGHT, TRAINED, Network, chosen, light
from PIL import Image
from refined_solvers import PROGRAMS, compile_all, kernel_slot, solved
from service_process import report

import naflow_core as nf
from naflow_core import ahead, cascade
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.measure import Subject
from naflow_core.model.program import evaluate, thawed
from naflow_core.ops.registry import REALS
from naflow_core.records import Layer
from naflow_core.targets.aim import pull_back

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits_in_clutter"
sys.path.insert(0, str(EXAMPLE))

from dataset import as_input  # noqa: E402  (a folder of scripts, not a package)

Array = Any
SETTINGS = {
    **{name: nf.PRESETS[name] for name in ("positive", "paper")},
    "retained": nf.Method.preset("positive", rows="retained"),
    "all": nf.Method.preset("positive", rows="all"),
}
NETWORKS = ("digits", *LIGHT, *TRAINED)
USUAL = ("digits", "SqueezeNet", "ResNet-50", *TRAINED)
MOST_TABLE = 256 << 20
"""Bytes of Fourier tables above which a segment is left out."""
MORE = 20
"""Iterations over which the time of one is measured."""
TIGHT = 1e-5, 500
FREE = ("free", "Fourier", "identity", "Neumann")


def is_square(segment: Segment) -> bool:
    """Whether it is one dense convolution of stride 1."""
    slot = kernel_slot(segment.subprogram)
    attributes = thawed(segment.steps[0].attributes)
    steps = {*(attributes.get("strides") or [1]), *(attributes.get("dilations") or [1])}
    return slot is not None and steps == {1} and attributes.get("group", 1) == 1


def table_bytes(segment: Segment, plan: Plan) -> int:
    """Memory of the Fourier tables of a convolution."""
    slot = kernel_slot(segment.subprogram)
    assert slot is not None
    name = segment.operands[slot - 1]
    kernel = plan.program.constants[name].shape
    if math.prod(kernel[2:]) == 1:
        return 4 * kernel[1] ** 2
    *others, last = plan.program.shapes[segment.source][2:]
    return 8 * kernel[1] ** 2 * math.prod(others) * (last // 2 + 1)


def is_residual(segment: Segment) -> bool:
    """Whether it is a sum of its input and a branch."""
    last = segment.steps[-1]
    sums = last.node.op_type in {"Add", "Sum"} and last.outputs[0] == segment.target
    return segment.kind == "composite" and sums and segment.source in last.sources


def variants_of(segment: Segment, plan: Plan, call: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """The calls of `solved` to compare for one segment. "free": without bounds."""
    choices = call[5]
    iterated = choices._replace(by_cells=False)
    free = (*call[:3], REALS, call[4], iterated, *call[6:])
    found = {"now": ("now", *call), "diagonal": ("diagonal", *call[:5], iterated, *call[6:])}
    if choices.by_cells:
        found["iterations"] = ("now", *call[:5], iterated, *call[6:])
    if not choices.damped:
        return found
    if is_square(segment) and table_bytes(segment, plan) <= MOST_TABLE:
        found |= {"free": ("now", *free), "Fourier": ("Fourier", *free)}
    if is_residual(segment):
        found |= {"free": ("now", *free), "identity": ("identity", *free), "Neumann": ("Neumann", *free)}
    return found


def with_limits(call: tuple[Any, ...], tolerance: float, most: int) -> tuple[Any, ...]:
    """The same call with other limits; they are traced, so nothing is compiled for them."""
    return (*call[:-1], call[-1]._replace(tolerance=tolerance, max_iterations=most))


def compared(calls: Mapping[str, tuple[Any, ...]], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Iterations, seconds and solution of each variant."""
    taken: dict[tuple[str, int], list[float]] = {(name, most): [] for name in calls for most in (1, 1 + MORE)}
    found: dict[str, dict[str, Any]] = {}
    compile_all(calls.values())
    for name, call in calls.items():
        _, iterations, converged, *_ = solved(*with_limits(call, options.tolerance, call[-1].max_iterations))
        x, _, tight, *_ = solved(*with_limits(call, *TIGHT))
        found[name] = {
            "iterations": int(iterations[0]),
            "converged": bool(converged[0]),
            "tight": bool(tight[0]),
            "x": np.asarray(x, np.float64),
        }
    for _ in range(options.repeats):
        for name, most in taken:
            call = with_limits(calls[name], 0.0, most)
            began = time.perf_counter()
            jax.block_until_ready(solved(*call))
            taken[name, most].append(time.perf_counter() - began)
    for name, row in found.items():
        first, more = (statistics.median(taken[name, most]) for most in (1, 1 + MORE))
        each = max(more - first, 0) / MORE
        # the last iteration of a solve only measures: with a cap of 1 there are two
        row |= {"each": each, "before": max(first - 2 * each, 0)}
        row["s"] = row["before"] + (row["iterations"] + 1) * each
    return found


def kept(rows: np.ndarray, axes: tuple[int, ...] | None) -> dict[str, float]:
    """What the rows that count lie on, as shares: rows, cells, box, tiles."""
    counts = rows != 0
    found = {"rows": float(counts.mean())}
    if axes is None or len(axes) != 2:
        return found | dict.fromkeys(("cells", "box", "tiles"), 1.0)
    cells = counts.any(axis=tuple(i for i in range(counts.ndim) if i not in axes))
    heights, widths = (np.flatnonzero(cells.any(axis=axis)) for axis in (1, 0))
    box = 0 if not cells.any() else (np.ptp(heights) + 1) * (np.ptp(widths) + 1)
    tiles = np.zeros_like(cells)
    for i in range(0, cells.shape[0], 8):
        for j in range(0, cells.shape[1], 8):
            tiles[i : i + 8, j : j + 8] = cells[i : i + 8, j : j + 8].any()
    return found | {
        "cells": float(cells.mean()),
        "box": float(box / cells.size),
        "tiles": float(tiles.mean()),
    }


def cascade_of(
    network: Network, own: nf.Method, tensors: Sequence[str] = ()
) -> tuple[Plan, Callable[[], list[Layer]], Any]:
    """The plan, the cascade for the likeliest class down to `tensors` (none: to the input), and every
    tensor's forward value."""
    model = nf.load(network.proto)
    plan = Subject(model, network.feeds).plan()
    program, head = plan.program, plan.head
    names = tuple(name for name in program.shapes if name not in program.inputs)
    subprogram, operands = program.extract(plan.source, names, whole=True)
    feeds = {name: jnp.asarray(value) for name, value in network.feeds.items()}
    tapped = evaluate(subprogram, feeds[plan.source], program.operands(operands, feeds))
    values = {**dict(zip(names, tapped, strict=True)), **feeds}
    scores = np.asarray(values[head.scores])
    cotangent = np.zeros(scores.size, np.float32)
    cotangent[np.argmax(scores)] = 1
    after, others = program.extract(plan.top, (head.scores,))
    top = pull_back(after, values[plan.top], program.operands(others, values), cotangent)

    wanted = set(tensors or plan.spine)

    def run() -> list[Layer]:
        compiling = ahead.AheadOfTime(plan, own, wanted)
        return list(cascade.run(plan, own, values, top, wanted, compiling.wait))

    return plan, run, values


def as_one_system(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """A call of `cascade.invert` without what only changes how a solve is laid out: the variants do not know
    channels that are solved apart, or on the last axis."""
    plain = call[5]._replace(channels=None, channels_last=False)
    return (*call[:5], plain, *call[6:])


def measured(
    network: Network, setting: str, options: argparse.Namespace
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the whole cascade, and a row for each segment that is inverted by least squares."""
    own = SETTINGS[setting]
    plan, run, values = cascade_of(network, own, options.tensors)
    run()
    passes = [run() for _ in range(options.repeats)]
    total = statistics.median(sum(layer.seconds for layer in layers) for layers in passes)
    rows = []
    for above, layer in itertools.pairwise(passes[0]):
        segment = layer.segment
        left_out = bool(options.tensors) and layer.tensor not in options.tensors
        if segment is None or segment.rule.function is not None or left_out:
            continue
        call = as_one_system(cascade.arguments(plan, segment, own, values, above.state))
        calls = variants_of(segment, plan, call)
        found = compared(calls, options)
        kept_rows = np.asarray(solved(*calls["diagonal"])[3])
        tables = table_bytes(segment, plan) if is_square(segment) else 0
        rows.append(
            {
                "network": network.name,
                "setting": setting,
                "tensor": segment.source,
                "nodes": [step.node.op_type for step in segment.steps],
                "unknowns": math.prod(plan.program.shapes[segment.source]),
                "equations": math.prod(plan.program.shapes[segment.target]),
                "bounded": segment.bounds != REALS and own.feasible,
                "residual": is_residual(segment),
                "stride 1": is_square(segment),
                "larger kernel": len(call[6].shape) > 2 and tables > 4 * call[6].shape[1] ** 2,
                "table bytes": tables,
                "kept": kept(kept_rows, plan.layouts.get(segment.target)),
                "variants": found,
            }
        )
        for name, row in found.items():
            other = found["free" if name in FREE else "now"]
            row["difference"] = difference(row["x"], other["x"])
        for row in found.values():
            del row["x"]
    print(f"{network.name}, {setting}: {total:.2f} s, {len(rows)} solves", file=sys.stderr)
    return total, rows


def difference(x: np.ndarray, other: np.ndarray) -> float:
    """||x - other|| / ||other||."""
    size = float(np.linalg.norm(other))
    return float(np.linalg.norm(x - other)) / size if size else float(np.linalg.norm(x))


def tables_of(
    name: str, setting: str, total: float, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """One row for each table."""
    now = [row["variants"]["now"] for row in rows]
    seconds = [one["s"] for one in now]
    solving = sum(seconds)
    label = {"network": name, "setting": setting}

    def share(key: str) -> float:
        return sum(row["kept"][key] * s for row, s in zip(rows, seconds, strict=True)) / solving

    def against(
        chosen_rows: Sequence[Mapping[str, Any]], base: str, others: Sequence[str], extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        parts = [row["variants"] for row in chosen_rows]
        if not parts:
            return {}
        sums = {key: sum(part[key]["s"] for part in parts) for key in (base, *others)}
        result = {
            **label,
            "segments": len(parts),
            "share of cascade": sum(part["now"]["s"] for part in parts) / total,
            f"iterations {base}": sum(part[base]["iterations"] for part in parts),
        }
        for key in others:
            best = sum(min(part[key]["s"], part[base]["s"]) for part in parts)
            result |= {
                f"iterations {key}": sum(part[key]["iterations"] for part in parts),
                f"time {key}": sums[key] / sums[base],
                f"where it pays {key}": best / sums[base],
                f"difference {key}": max(part[key]["difference"] for part in parts),
            }
        return result | dict(extra)

    square = [row for row in rows if "Fourier" in row["variants"]]
    wide = [row for row in rows if row["stride 1"] and row["table bytes"] > MOST_TABLE]
    steps = [part["variants"] for part in square]
    blocks = [row for row in rows if "Neumann" in row["variants"]]
    ahead = {key: sum(value) for key, value in hidden(now).items()}
    return {
        "rows": {
            **label,
            "cascade s": total,
            "solves": len(rows),
            "share of cascade": solving / total,
            **{key: share(key) for key in ("rows", "cells", "box", "tiles")},
        },
        "diagonal": against(rows, "now", ["diagonal"], {}),
        "Fourier": against(
            square,
            "free",
            ["Fourier"],
            {
                "with bounds": sum(row["bounded"] for row in square),
                "larger kernels": sum(row["larger kernel"] for row in square),
                "left out": len(wide),
                "largest table MB": max((row["table bytes"] for row in square), default=0) / 1e6,
                "iteration x": sum(p["Fourier"]["each"] for p in steps)
                / max(sum(p["free"]["each"] for p in steps), 1e-9),
            },
        ),
        "blocks": against(blocks, "free", ["identity", "Neumann"], {}),
        "cells": against([row for row in rows if "iterations" in row["variants"]], "iterations", ["now"], {}),
        "ahead": {**label, **{key: value / total for key, value in ahead.items()}},
    }


def hidden(now: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Seconds of what each solve could begin with while the one above runs, no longer than that one."""
    pairs = list(itertools.pairwise(now))
    return {
        "linearisation": [min(b["before"], a["s"]) for a, b in pairs],
        "and first products": [min(b["before"] + 2 * b["each"], a["s"]) for a, b in pairs],
    }


def networks_of(options: argparse.Namespace) -> Iterator[Network]:
    """The networks of the options."""
    for name in options.networks:
        if name == "digits":
            picture = np.asarray(Image.open(EXAMPLE / "inputs" / "digit_3.png").convert("L"))
            proto = onnx.load(EXAMPLE / "digits_in_clutter.onnx")
            yield Network(name, proto, {"image": as_input(picture[None])})
        elif name in LIGHT:
            yield resized(name, options.size)
        else:
            yield from chosen(argparse.Namespace(networks=[name], zoo=options.zoo), 1)


def resized(name: str, size: int) -> Network:
    """A seeded graph at any size: what ends in a pooling of a fixed window gets one over the whole map."""
    network = light(name, 1, size)
    pools = [node for node in network.proto.graph.node if "AveragePool" in node.op_type]
    if size != 224 and pools:
        pools[-1].op_type = "GlobalAveragePool"
        del pools[-1].attribute[:]
    return network


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(USUAL), choices=NETWORKS, metavar="NAME")
    parser.add_argument(
        "--settings", nargs="+", default=list(SETTINGS)[:3], choices=SETTINGS, metavar="SETTING"
    )
    parser.add_argument("--size", type=int, default=112, help="of the seeded graphs")
    parser.add_argument("--zoo", type=Path, default=os.environ.get("NAFLOW_ZOO") or None)
    parser.add_argument("--tensors", nargs="+", default=[], metavar="NAME", help="only the segments to these")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    tables: dict[str, list[dict[str, Any]]] = {}
    segments: list[dict[str, Any]] = []
    for network in networks_of(options):
        for setting in options.settings:
            total, rows = measured(network, setting, options)
            segments += rows
            for title, row in tables_of(network.name, setting, total, rows).items():
                tables.setdefault(title, []).extend([row] if row else [])
            nf.drop_programs()
            PROGRAMS.clear()
    facts = {"size": options.size, "tolerance": options.tolerance, "repeats": options.repeats}
    for title, found in tables.items():
        if title != "rows":
            report(f"Solver refinements: {title}", found, None)
            print()
    unprinted = {"tables": {k: v for k, v in tables.items() if k != "rows"}, "segments": segments}
    report("Solver refinements: rows", tables["rows"], options.json, unprinted=unprinted, **facts)


if __name__ == "__main__":
    main()
