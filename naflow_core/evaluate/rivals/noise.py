"""Noise that fits a picture, whatever units the model takes it in."""

from __future__ import annotations

import numpy as np


def noisy(x: np.ndarray, spread: float, random: np.random.Generator) -> np.ndarray:
    """Pictures with Gaussian noise whose standard deviation is a share of each picture's own range."""
    axes = tuple(range(1, x.ndim))
    reach = x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True)
    return (x + spread * reach * random.standard_normal(x.shape, np.float32)).astype(np.float32)
