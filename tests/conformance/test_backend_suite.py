"""ONNX's own backend test suite against the forward program; see `support.conformance`.

The numbers in docs/operators.md are those of this run.
"""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from support.conformance import compare, release_programs, run_case
from support.conformance_cases import grouped_cases
from support.conformance_exclusions import EXCLUDED

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operators.md"
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_operators.py"))
KEPT_PROGRAMS = 400
GROUPS = grouped_cases()
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # float64 to float32


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[list[int]]:
    """How many cases have run: their compiled programs are dropped now and then."""
    count = [0]
    yield count
    release_programs()


@pytest.mark.parametrize("group", GROUPS)
def test_cases(group: str, programs: list[int]) -> None:
    """Right values, unless the model has operators or types that we do not take, or is excluded."""
    problems, passed = [], 0
    for case in GROUPS[group]:
        outcome = run_case(case)
        passed += outcome.status == "passed"
        expected = {"outside", "unsupported"} if case.name not in EXCLUDED else {"failed", "refused"}
        if outcome.status == "passed" and case.name in EXCLUDED:
            problems.append(f"{case.name} passes now: take it out of EXCLUDED")
        elif outcome.status != "passed" and outcome.status not in expected:
            problems.append(f"{case.name} {outcome.status}: {outcome.reason}")
    programs[0] += len(GROUPS[group])
    if programs[0] > KEPT_PROGRAMS:
        programs[0] = 0
        release_programs()
    assert not problems, "\n".join(problems)
    documented = SCRIPT["read_counts"](PAGE.read_text(encoding="utf-8"))
    if documented.onnx == onnx.__version__:
        assert documented.passed.get(group, 0) == passed, "run docs/make_operators.py"


def test_exclusions_name_cases() -> None:
    names = {case.name for cases in GROUPS.values() for case in cases}
    assert not set(EXCLUDED) - names


def test_the_page_is_up_to_date() -> None:
    """All but the numbers of passed cases, which `test_cases` compares."""
    text = PAGE.read_text(encoding="utf-8")
    documented = SCRIPT["read_counts"](text)
    if documented.onnx != onnx.__version__:
        pytest.skip(f"docs/operators.md was made with onnx {documented.onnx}")
    assert SCRIPT["render"](documented) == text, "run docs/make_operators.py"


def test_the_list_that_inspect_answers_early_from_is_up_to_date() -> None:
    assert SCRIPT["LIST"].read_text(encoding="utf-8") == SCRIPT["catalogue"](), (
        "run docs/make_operators.py --list"
    )


def test_a_wrong_value_is_noticed() -> None:
    case = next(case for case in GROUPS["Relu"] if case.name == "relu")
    wrong = np.array(case.outputs[0])
    wrong[0, 0, 0] += 1
    outcome = run_case(dataclasses.replace(case, outputs=(wrong,)))
    assert outcome.status == "failed"
    assert "1 of 60 elements" in outcome.reason


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), ""),
        (np.float32([1, np.nan, np.inf]), np.float64([1, np.nan, np.inf]), ""),
        (np.float32([1, 2]), np.float32([[1, 2]]), "shape (2,) instead of (1, 2)"),
        (np.float32([1, 2]), np.int64([1, 2]), "float32 instead of int64"),
        (np.int32([1, 2]), np.int64([1, 3]), "1 of 2 elements, 2.0 instead of 3.0 at (1,)"),
        (np.int32([1, 1]), np.bool_([1, 1]), "int32 instead of bool"),
        (np.float32([1.01]), np.float16([1]), "1 of 1 elements, 1.0099999904632568 instead of 1.0 at (0,)"),
    ],
)
def test_comparison(found: np.ndarray, expected: np.ndarray, difference: str) -> None:
    assert compare(found, expected, 1e-3, 1e-7) == difference


def test_comparison_of_carried_integers() -> None:
    assert compare(np.float32([1, 2]), np.int32([1, 2]), 1e-3, 1e-7, carried=True) == ""
    assert compare(np.float32([1, 2.0001]), np.int32([1, 2]), 1e-3, 1e-7, carried=True)
