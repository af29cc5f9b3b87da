"""How far the maps are from the converged ones, layer by layer.

    python benchmarks/accuracy.py [--networks AlexNet ...] [--presets paper default] [--layers] [--json FILE]
                                  [--levels quality=draft quality=standard quality=exact]
                                  [--converged tolerance=1e-7 max_iterations=20000] [--float32]

The reference is the same cascade with every solve run until it has converged, in float64, in a process of its
own (with --float32 in float32, which reaches about 1e-6: give it that tolerance). Both cascades go all the
way down on their own, so the errors of the layers above are part of each figure. Every level is one setting
of the method, several options joined by commas. All spine layers. Columns:

    difference    largest difference of the min-max map, over the layers the largest and the median
    over 0.01     layers where it is larger than 0.01
    Spearman      rank correlation of the map's cells with the reference's, over the layers the lowest
    unconverged   layers whose solve stopped at its cap, at this level and in the reference

--layers prints every layer of every level.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import Network, add_options, chosen, light, method
from scipy import stats
from service_process import report

import naflow_core as nf
from naflow_core import ahead
from naflow_core.model.program import Program

LEVELS = ("quality=draft", "quality=standard", "quality=exact")
CONVERGED = ("tolerance=1e-7", "max_iterations=20000")
GOAL = 0.01


class WideProgram(Program):
    """A program whose floats are float64."""

    def struct(self, name: str) -> jax.ShapeDtypeStruct:
        """As in float32, but wider."""
        narrow = super().struct(name)
        return jax.ShapeDtypeStruct(narrow.shape, _wide(narrow.dtype))


class WideModel(nf.Model):
    """A model that is computed in float64; the process must run with JAX's x64 switched on."""

    def program(self, shapes: Any) -> Program:
        """With weights in float64."""
        narrow = super().program(shapes)
        fields = {field.name: getattr(narrow, field.name) for field in dataclasses.fields(narrow)}
        weights = {name: value.astype(_wide(value.dtype)) for name, value in narrow.constants.items()}
        return WideProgram(**{**fields, "constants": weights, "_own_weights": {}, "_shared_weights": {}})

    def check_inputs(self, x: Any) -> dict[str, np.ndarray]:
        """In float64."""
        checked = super().check_inputs(x)
        return {name: value.astype(_wide(value.dtype)) for name, value in checked.items()}


def _wide(kind: Any) -> np.dtype[Any]:
    return np.dtype(np.float64) if np.dtype(kind) == np.float32 else np.dtype(kind)


def explained(network: Network, own: nf.Method, *, wide: bool = False) -> list[nf.Flow]:
    """All spine flows, nearest to the input first."""
    model = nf.load(network.proto)
    if wide:
        model = WideModel(model.loaded)
    return list(model.explain(network.feeds, method=own, layers="spine").collect().flows)


def reference(network: Network, preset: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Converged maps and whether each layer's solve has converged, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "maps.npz")
        command = [sys.executable, __file__, "--networks", network.name, "--presets", preset]
        command += ["--converged", *options.converged, "--write", str(out)]
        command += ["--set", *options.changes] if options.changes else []
        command += ["--zoo", str(options.zoo)] if options.zoo else []
        command += ["--size", str(options.size)] if options.size else []
        command += ["--float32"] if options.float32 else []
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            said = ended.stderr.strip() or f"exit status {ended.returncode}"
            raise SystemExit(f"{network.name}: the reference failed:\n{said}")
        with np.load(out) as arrays:
            return dict(arrays)


def write_reference(network: Network, preset: str, options: argparse.Namespace) -> None:
    """The other end of `reference`."""
    own = method(preset, [*options.changes, *options.converged])
    if not options.float32:
        jax.config.update("jax_enable_x64", True)
        ahead.MOST_THREADS = 1  # it would compile for float32
    flows = explained(network, own, wide=not options.float32)
    np.savez(
        options.write,
        *[flow.map for flow in flows],
        converged=np.array([bool(flow.diagnostics.converged.all()) for flow in flows]),
        iterations=np.array([float(flow.diagnostics.iterations.mean()) for flow in flows]),
    )


def minmax(maps: np.ndarray) -> np.ndarray:
    """Each map on 0..1; a flat one on 0."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    return (flat - low) / np.where(high > low, high - low, 1)


def spearman(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Rank correlation of two flat maps; 1 where both are flat, 0 where one is."""
    flat = [float(np.ptp(values)) == 0 for values in (ours, theirs)]
    if any(flat):
        return float(all(flat))
    return float(np.corrcoef(stats.rankdata(ours), stats.rankdata(theirs))[0, 1])


def layers_of(flows: list[nf.Flow], found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each layer, worst picture."""
    rows = []
    for number, flow in enumerate(flows):
        ours, theirs = minmax(flow.map), minmax(found[f"arr_{number}"])
        rows.append(
            {
                "tensor": flow.tensor,
                "rule": flow.diagnostics.rule,
                "difference": float(np.abs(ours - theirs).max()),
                "Spearman": min(spearman(a, b) for a, b in zip(ours, theirs, strict=True)),
                "iterations": float(flow.diagnostics.iterations.mean()),
                "of reference": float(found["iterations"][number]),
                "converged": bool(flow.diagnostics.converged.all()),
                "reference converged": bool(found["converged"][number]),
            }
        )
    return rows


def summary(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    differences = [layer["difference"] for layer in layers]
    return {
        "layers": len(layers),
        "difference": f"{max(differences):.1e}",
        "median": f"{float(np.median(differences)):.1e}",
        "over 0.01": sum(difference > GOAL for difference in differences),
        "Spearman": round(min(layer["Spearman"] for layer in layers), 4),
        "iterations": sum(layer["iterations"] for layer in layers),
        "of reference": sum(layer["of reference"] for layer in layers),
        "unconverged": sum(not layer["converged"] for layer in layers),
        "in reference": sum(not layer["reference converged"] for layer in layers),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--presets", nargs="+", default=["paper", "default"], choices=sorted(nf.PRESETS))
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), metavar="OPTION=VALUE[,...]")
    parser.add_argument("--converged", nargs="+", default=list(CONVERGED), metavar="OPTION=VALUE")
    parser.add_argument("--float32", action="store_true", help="the reference in float32 too")
    parser.add_argument("--size", type=int, help="of the pictures; SqueezeNet and DenseNet-121 only")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for network in subjects(options):
        for preset in options.presets:
            if options.write:
                write_reference(network, preset, options)
                return
            found = reference(network, preset, options)
            for level in options.levels:
                own = method(preset, [*options.changes, *level.split(",")])
                parts = layers_of(explained(network, own), found)
                head = {"network": network.name, "preset": preset, "level": level}
                layers += [{**head, **part} for part in parts]
                rows.append(head | summary(parts))
                print(f"{network.name}, {preset}, {level}: {rows[-1]['difference']}", file=sys.stderr)
        nf.drop_programs()
    if options.layers:
        printed = [{**row, "difference": f"{row['difference']:.1e}"} for row in layers]
        report("Layers against the converged maps", printed, None)
        print()
    precision = "float32" if options.float32 else "float64"
    facts = {"reference": f"{precision}, {' '.join(options.converged)}", "changes": " ".join(options.changes)}
    report("Maps against the converged ones", rows, options.json, unprinted={"layers": layers}, **facts)


def subjects(options: argparse.Namespace) -> Any:
    """The networks, one picture each, at another size on request."""
    if options.size is None:
        return chosen(options, 1)
    return (light(name, 1, options.size) for name in options.networks)


if __name__ == "__main__":
    main()
