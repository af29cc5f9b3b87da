"""The wire's names of the method's options are those of the core, all of them."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from naflow.v1 import method_pb2 as me
from naflow_core import method
from naflow_server.convert import tables


@pytest.mark.parametrize(
    ("enum", "prefix", "names", "literal"),
    [
        (me.Inverse, "INVERSE", tables.INVERSES, method.Inverse),
        (me.Rows, "ROWS", tables.ROWS, method.Rows),
        (me.Anchor, "ANCHOR", tables.ANCHORS, method.Anchor),
        (me.Weighting, "WEIGHTING", tables.WEIGHTINGS, method.Weighting),
        (me.Evidence, "EVIDENCE", tables.EVIDENCE, method.Evidence),
        (me.AbandonmentRule, "ABANDONMENT_RULE", tables.ABANDONMENTS, method.Rule),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_every_value_of_an_option_has_its_name_on_the_wire(
    enum: Any, prefix: str, names: dict[int, str], literal: Any
) -> None:
    assert sorted(names.values()) == sorted(get_args(literal))
    said = {number: name for name, number in enum.items() if number}  # 0: not set
    assert said == {number: f"{prefix}_{name.upper().replace('-', '_')}" for number, name in names.items()}
