"""Trains the demo network on scenes made on the spot and writes everything this folder ships.

    python examples/digits_in_clutter/train.py

Needs scikit-learn (`pip install 'naflow[examples]'`). Everything random hangs on the seeds below.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from PIL import Image

from dataset import CLASSES, SIZE, Scene, as_input, load_sources, scenes
from export import to_onnx
from network import Params, forward, initialise

HERE = Path(__file__).resolve().parent
TRAIN_SEED, TEST_SEED, SHOWN_SEED, WEIGHT_SEED = 1, 2, 3, 4
TRAIN_SCENES, TEST_SCENES, SHOWN = 24_000, 1_000, 6
EPOCHS, BATCH, PEAK_RATE, DECAY = 5, 64, 3e-3, 1e-4
EXPORT_TOLERANCE = 1e-4


def main() -> None:
    """Train, measure on unseen digits, export, compare the export with JAX, write the pictures."""
    began = time.perf_counter()
    train_pictures, train_labels = _stack(scenes(load_sources("train"), TRAIN_SCENES, TRAIN_SEED))
    test_pictures, test_labels = _stack(scenes(load_sources("test"), TEST_SCENES, TEST_SEED))
    print(f"{TRAIN_SCENES} training and {TEST_SCENES} test scenes after {time.perf_counter() - began:.0f} s")

    params, statistics = train(train_pictures, train_labels)
    model = to_onnx({name: np.asarray(value) for name, value in {**params, **statistics}.items()})
    path = HERE / "digits_in_clutter.onnx"
    onnx.save(model, path)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    exported = np.concatenate([session.run(None, {"image": as_input(b)})[0] for b in _batches(test_pictures)])
    ours = np.concatenate([_predict(params, statistics, as_input(b)) for b in _batches(test_pictures)])
    gap = float(np.abs(exported - ours).max())
    if gap > EXPORT_TOLERANCE:
        raise SystemExit(f"the exported model is {gap:.1e} off the JAX one; allowed: {EXPORT_TOLERANCE}")
    accuracy = float((exported.argmax(1) == test_labels).mean())
    _write_pictures()
    (HERE / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    recipe = {"channels": "L", "size": SIZE, "subtract": 0, "divide": 255}
    (HERE / "preprocess.json").write_text(json.dumps(recipe, indent=2) + "\n")
    print(f"test accuracy {accuracy:.4f} on {TEST_SCENES} scenes of unseen digits")
    print(f"ONNX against JAX: largest difference of a logit {gap:.1e}; file {path.stat().st_size} bytes")
    print(f"{time.perf_counter() - began:.0f} s, Python {platform.python_version()}, JAX {jax.__version__}")


def train(pictures: np.ndarray, labels: np.ndarray) -> tuple[Params, Params]:
    """Adam with decoupled weight decay and a one-cycle learning rate."""
    params, statistics = initialise(jax.random.key(WEIGHT_SEED))
    state = params, statistics, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(TRAIN_SEED)
    per_epoch = len(pictures) // BATCH
    step, began = 0, time.perf_counter()
    for epoch in range(EPOCHS):
        order = rng.permutation(len(pictures))[: per_epoch * BATCH].reshape(per_epoch, BATCH)
        losses = []
        for rows in order:
            step += 1
            rate = _rate(step / (per_epoch * EPOCHS))
            state, loss = _update(state, as_input(pictures[rows]), labels[rows], rate, float(step))
            losses.append(loss)
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {seconds:.0f} s", flush=True)
    return state[0], state[1]


def _rate(progress: float) -> float:
    """Up linearly over the first tenth, then down along a cosine."""
    if progress < 0.1:
        return PEAK_RATE * progress / 0.1
    return PEAK_RATE * 0.5 * (1.0 + math.cos(math.pi * (progress - 0.1) / 0.9))


State = tuple[Params, Params, Params, Params]


@jax.jit
def _update(
    state: State, pictures: jax.Array, labels: jax.Array, rate: float, step: float
) -> tuple[State, jax.Array]:
    params, statistics, first, second = state

    def loss_of(candidate: Params) -> tuple[jax.Array, Params]:
        logits, moved = forward(candidate, statistics, pictures, training=True)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -picked.mean(), moved

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

    def move(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = m / (1.0 - 0.9**step) / (jnp.sqrt(v / (1.0 - 0.999**step)) + 1e-8)
        return p - rate * (direction + DECAY * p)

    return (jax.tree.map(move, params, first, second), statistics, first, second), loss


@jax.jit
def _predict(params: Params, statistics: Params, pictures: jax.Array) -> jax.Array:
    return forward(params, statistics, pictures, training=False)[0]


def _stack(drawn: Iterable[Scene]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(scene.picture, scene.label) for scene in drawn]
    return np.stack([picture for picture, _ in pairs]), np.array([label for _, label in pairs])


def _batches(pictures: np.ndarray, size: int = 250) -> Iterable[np.ndarray]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))


def _write_pictures() -> None:
    """The first scenes of unseen digits with labels all different, and their truth."""
    folder = HERE / "inputs"
    folder.mkdir(exist_ok=True)
    shown: dict[int, Scene] = {}
    for scene in scenes(load_sources("test"), 200, SHOWN_SEED):
        if scene.label not in shown and len(shown) < SHOWN:
            shown[scene.label] = scene
    truth = {}
    for label, scene in sorted(shown.items()):
        name = f"digit_{label}.png"
        Image.fromarray(scene.picture).save(folder / name, optimize=True)
        truth[name] = {"label": label, "box": list(scene.box)}
    text = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in truth.items())
    (folder / "truth.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
