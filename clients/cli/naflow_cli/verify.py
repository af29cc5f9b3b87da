"""`naflow verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import naflow_core as nf
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import OUT, line, note, print_json
from naflow_cli.inputs import read_inputs
from naflow_cli.shapes import given_shapes

SHOWN = 10


def verify_model(
    model: Path,
    input: Path | None,  # noqa: A002
    tolerance: float,
    preprocess: str | None,
    seed: int,
    input_shape: Sequence[str],
    json: bool,
) -> int:
    """Print the comparison; 0 if every tensor agrees, else 1."""
    if not 0 < tolerance < 1:
        raise nf.OptionError(f"--tolerance {tolerance} must lie between 0 and 1")
    if seed < 0:
        raise nf.OptionError(f"--seed {seed} must not be negative")
    if input is None and preprocess is not None:
        raise nf.OptionError("--preprocess is for a picture", hint="name one with --input")
    use_compilation_cache()
    loaded = nf.load(model)
    shapes = given_shapes(input_shape, loaded.inputs)
    if shapes and input is not None:
        raise nf.OptionError(
            "--input-shape is for noise: an --input has a shape of its own", hint="leave one out"
        )
    x = None
    if input is not None:
        batch = read_inputs(loaded, [input], preprocess)
        note(batch.note, quiet=not batch.note)
        x = batch.arrays
    result = loaded.verify(x, tolerance=tolerance, seed=seed, input_shapes=shapes)
    facts = result.to_dict()
    if json:
        print_json(facts)
        return 0 if result.ok else 1
    worst = sorted(facts["tensors"], key=lambda t: (t["ok"], -t["max_rel_error"]))[:SHOWN]
    for tensor in worst:
        off = tensor["off_by_more_than_one"]
        steps = "" if off is None else f"  {off:.1e} of the elements off by more than one step"
        steps += "  rounding of terms that cancel" if tensor["only_rounding"] else ""
        style = "" if tensor["ok"] else "red"
        line(OUT, f"{tensor['max_rel_error']:.1e}  {tensor['tensor']}{steps}", style)
    state = "agrees" if result.ok else "DIFFERS"
    summary = f"{len(facts['tensors'])} tensors, largest relative error {facts['max_rel_error']:.1e}"
    line(OUT, f"{state}: {summary} (tolerance {tolerance:g})", "green" if result.ok else "red")
    return 0 if result.ok else 1
