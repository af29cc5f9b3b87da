"""Class activation maps that weight a layer's channels by the class score's gradient there.

With A the layer's value and g the gradient of the explained score with respect to it, both [N, C, H, W]. The
papers write them for the last convolution; here they are taken at any layer.
"""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.memory import digest
from naflow_core.evaluate.rivals.noise import noisy
from naflow_core.evaluate.rivals.registry import register
from naflow_core.evaluate.subject import Subject

GRAD_CAM = "Selvaraju et al., Grad-CAM, 2017"
GRAD_CAM_PLUS = "Chattopadhay et al., Grad-CAM++, 2018"
SMOOTH = "Omeiza et al., Smooth Grad-CAM++, 2019"
LAYER_CAM = "Jiang et al., LayerCAM, 2021"
HIRES_CAM = "Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020"


@register("grad-cam", runs=3, source=GRAD_CAM)
def grad_cam(
    subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """relu(sum_c mean(g_c) A_c)."""
    value, slope = _at(subject, x, classes, layer)
    return _weighted(value, slope.mean(axis=(2, 3)))


@register("grad-cam++", runs=3, source=GRAD_CAM_PLUS)
def grad_cam_plus_plus(
    subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """Grad-CAM with the positive gradients weighted cell by cell.

    The paper's closed form: the exponential of the score is explained, whose second and third derivatives are
    g^2 and g^3 (times itself) where the network is piecewise linear.
    """
    value, slope = _at(subject, x, classes, layer)
    slope = slope.astype(np.float64)  # third powers of small gradients leave float32's range
    return _plus_plus(value, slope, slope**2, slope**3)


@register("smooth-grad-cam++", runs=24, source=SMOOTH)
def smooth_grad_cam_plus_plus(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    layer: str,
    random: np.random.Generator,
    *,
    samples: int = 8,
    spread: float = 0.15,
) -> np.ndarray:
    """Grad-CAM++ with the powers of the gradient averaged over noisy copies of the picture.

    Args:
        samples: noisy copies for each picture.
        spread: standard deviation of the noise, as a share of the picture's own range.
    """
    copies = [noisy(x, spread, random) for _ in range(samples)]
    names = subject.studied if layer in subject.studied else (layer,)

    def make() -> dict[str, np.ndarray]:
        clean = subject.tap(x, names)
        powers = {name: [np.zeros(value.shape)] * 3 for name, value in clean.items()}
        for copy in copies:
            for name, (_, found) in subject.gradients(copy, classes, names).items():
                slope = found.astype(np.float64)
                powers[name] = [total + slope**n / samples for n, total in enumerate(powers[name], 1)]
        maps = {}
        for name, value in clean.items():
            planes = subject.layer(name).axes.planes
            maps[name] = _plus_plus(planes(value), *(planes(power) for power in powers[name]))
        return maps

    return subject.memory.get(("smooth-grad-cam++", names, digest(x, classes, *copies)), make)[layer]


@register("layer-cam", runs=3, source=LAYER_CAM)
def layer_cam(
    subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """relu(sum_c relu(g_c) A_c), cell by cell."""
    value, slope = _at(subject, x, classes, layer)
    return np.maximum((np.maximum(slope, 0) * value).sum(axis=1), 0)


@register("hires-cam", runs=3, source=HIRES_CAM)
def hires_cam(
    subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """relu(sum_c g_c A_c), cell by cell."""
    value, slope = _at(subject, x, classes, layer)
    return np.maximum((slope * value).sum(axis=1), 0)


def _at(subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray]:
    value, slope = subject.studied_gradients(x, classes, layer)
    planes = subject.layer(layer).axes.planes
    return planes(value), planes(slope)


def _weighted(value: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.maximum(np.einsum("nchw,nc->nhw", value, weights), 0)


def _plus_plus(value: np.ndarray, first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """From the value and the first three powers of the gradient."""
    below = 2 * second + value.sum(axis=(2, 3), keepdims=True) * third
    alpha = np.divide(second, below, out=np.zeros_like(below), where=below != 0)
    return _weighted(value, (alpha * np.maximum(first, 0)).sum(axis=(2, 3)))
