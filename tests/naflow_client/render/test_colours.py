"""The colour map keeps the order of values for every reader."""

from __future__ import annotations

import numpy as np
import pytest

from naflow_client import MapError
from naflow_client.render import ANCHORS, TABLE, colour
from naflow_client.render.colours import oklab

# Viénot, Brettel and Mollon (1999): linear RGB as a protanope and a deuteranope see it.
DICHROMATS = {
    "protanope": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranope": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


def luminance(colours: np.ndarray) -> np.ndarray:
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ [0.2126, 0.7152, 0.0722])


def test_lightness_rises_from_end_to_end() -> None:
    assert TABLE.shape == (256, 3)
    assert (np.diff(luminance(TABLE[::3].astype(float))) > 0).all()
    lightness = oklab(TABLE)[:, 0]
    assert lightness[0] < 0.25
    assert lightness[-1] > 0.93


def test_equal_steps_of_value_are_about_equal_steps_of_colour() -> None:
    # Over eight entries, so that rounding to 8 bits does not dominate.
    steps = np.linalg.norm(oklab(TABLE)[8::8] - oklab(TABLE)[:-8:8], axis=1)
    assert steps.max() / steps.min() < 1.25


@pytest.mark.parametrize("kind", DICHROMATS)
def test_order_survives_colour_blindness(kind: str) -> None:
    encoded = TABLE[::8] / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DICHROMATS[kind]).T, 0, 1)
    assert (np.diff(seen @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_ends_are_the_anchors() -> None:
    assert np.abs(TABLE[0].astype(int) - ANCHORS[0]).max() <= 1
    assert np.abs(TABLE[-1].astype(int) - ANCHORS[-1]).max() <= 1


def test_colour_looks_up_the_nearest_entry_and_clips() -> None:
    assert np.array_equal(colour(np.arange(256) / 255), TABLE)
    assert np.array_equal(colour([[-1.0, 2.0]]), TABLE[[[0, 255]]])
    with pytest.raises(MapError, match="nan"):
        colour([np.nan])
    with pytest.raises(ValueError, match="read-only"):
        TABLE[0] = 0
