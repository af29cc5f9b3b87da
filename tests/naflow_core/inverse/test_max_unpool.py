"""Max unpooling against loops: overlapping windows, retained masks, ties."""

from __future__ import annotations

import numpy as np
import pytest

from naflow_core.ops.pool import PoolGeometry
from support import replicas
from support.inverse_cases import ROWS
from support.rule_runs import RuleRun

POOLS = [pytest.param(row, id=str(row)) for row in ROWS if row.op_type == "MaxPool"]


def expected(row, case, y, retained):
    geometry = PoolGeometry.of(case.x0.shape, **row.attributes)
    return replicas.unpool(
        y, retained, case.x0, geometry.kernel, geometry.strides, geometry.dilations, geometry.pads_lo
    )


@pytest.mark.parametrize("row", POOLS)
def test_unpool_equals_the_loops(row):
    generator = np.random.default_rng(0)
    x = np.round(generator.normal(size=row.inputs[0].shape) * 2).astype(np.float32)  # many ties
    case = RuleRun(row, x)
    y = generator.normal(size=case.y0.shape)
    for retained in (np.ones(y.shape, bool), generator.random(y.shape) < 0.4, np.zeros(y.shape, bool)):
        got = case.inverse(np.where(retained, y, 0), retained)
        np.testing.assert_allclose(got, expected(row, case, y, retained), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", POOLS)
def test_pooling_what_was_unpooled_gives_the_pooled_values_again(row):
    """Property 1, for positive activations: a zero put into a cell that no window chose never wins."""
    case = RuleRun(row)
    np.testing.assert_allclose(case.forward(case.inverse(case.y0)), case.y0, rtol=1e-6)


@pytest.mark.parametrize("row", POOLS)
def test_an_abandoned_window_has_no_say(row):
    case = RuleRun(row)
    retained = np.random.default_rng(1).random(case.y0.shape) < 0.5
    noise = np.where(retained, case.y0, 1e6)
    np.testing.assert_array_equal(case.inverse(noise, retained), case.inverse(case.y0, retained))
