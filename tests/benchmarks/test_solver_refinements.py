"""The benchmark of solver refinements, run small: its variants solve the same systems."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.benchmarks import script

CONVOLUTION, BLOCK = "deepen_relu", "widen_pool"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script writes about a convolution and a residual block of the bundled network."""
    refinements = script("solver_refinements")
    out = tmp_path_factory.mktemp("refinements") / "out.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinements.nf, "drop_programs", lambda: None)
        given = ["--networks", "digits", "--settings", "positive", "--repeats", "1"]
        refinements.main([*given, "--tensors", CONVOLUTION, BLOCK, "--json", str(out)])
    return json.loads(out.read_text())


def test_every_table_has_its_row(found: dict[str, Any]) -> None:
    (row,) = found["rows"]
    assert (row["network"], row["setting"], row["solves"]) == ("digits", "positive", 2)
    assert {name: len(rows) for name, rows in found["tables"].items()} == {
        "diagonal": 1, "Fourier": 1, "blocks": 1, "cells": 0, "ahead": 1
    }  # fmt: skip
    assert [part["tensor"] for part in found["segments"]] == [CONVOLUTION, BLOCK]


def test_shares_are_shares_and_nest(found: dict[str, Any]) -> None:
    for row in (*found["rows"], *(part["kept"] for part in found["segments"])):
        assert 0 < row["rows"] <= row["cells"] <= min(row["box"], row["tiles"])
        assert max(row["box"], row["tiles"]) <= 1
    assert all(0 <= found["tables"]["ahead"][0][key] <= 1 for key in ("linearisation", "and first products"))


def test_variants_reach_the_same_solution(found: dict[str, Any]) -> None:
    convolution, block = (part["variants"] for part in found["segments"])
    assert set(convolution) == {"now", "diagonal", "free", "Fourier"}
    assert set(block) == {"now", "diagonal", "free", "identity", "Neumann"}
    for variants in (convolution, block):
        for name, variant in variants.items():
            assert variant["iterations"] > 0
            assert variant["s"] > 0
            if variant["tight"]:
                assert variant["difference"] < 1e-3
            else:  # its preconditioner is far worse than none
                assert name == "Neumann"


def test_inverses_by_sweeps() -> None:
    random = np.random.default_rng(0)
    root = random.standard_normal((3, 5, 5)) + 1j * random.standard_normal((3, 5, 5))
    matrices = (root @ root.conj().swapaxes(1, 2) + np.eye(5)).astype(np.complex64)
    inverses = jax.jit(script("refined_solvers").inverted)(jnp.asarray(matrices))
    np.testing.assert_allclose(inverses @ matrices, np.broadcast_to(np.eye(5), (3, 5, 5)), atol=1e-4)


def test_kept_rows_are_counted_by_cells_boxes_and_tiles() -> None:
    rows = np.zeros((1, 2, 16, 16))
    rows[0, 0, 1, 2] = rows[0, 1, 9, 3] = 0.5
    found = script("solver_refinements").kept(rows, (2, 3))
    assert found == {"rows": 2 / 512, "cells": 2 / 256, "box": 18 / 256, "tiles": 0.5}
    assert script("solver_refinements").kept(rows * 0, (2, 3))["box"] == 0
