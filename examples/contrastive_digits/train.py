"""Trains the encoder by contrast, on views drawn on the spot, and writes everything this folder ships.

    python examples/contrastive_digits/train.py

No label is used: two views of one scan attract each other, views of different scans repel (SimCLR's NT-Xent
loss, Chen et al. 2020). Needs scikit-learn (`pip install 'naflow[examples]'`). Everything random hangs on the
seeds below.
"""

from __future__ import annotations

import json
import math
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from PIL import Image

from encoder import Params, embed, initialise
from measures import bootstrap, knn_labels, one_shot_episode
from onnx_file import to_onnx
from views import CLASSES, SIZE, Views, as_input, draw, load_scans

HERE = Path(__file__).resolve().parent
TRAIN_SEED, BANK_SEED, TEST_SEED, EPISODE_SEED, SHOWN_SEED, WEIGHT_SEED = range(1, 7)
STEPS, BATCH = 500, 128
PEAK_RATE, DECAY, TEMPERATURE = 4e-3, 1e-4, 0.2
BANK_VIEWS, TEST_VIEWS, EPISODES = 1_348, 1_000, 400
SUPPORTS, QUERIES = (0, 2, 3, 4, 6), (3, 6)  # digits of the pictures that are shipped
EXPORT_TOLERANCE = 1e-4


def main() -> None:
    """Train, export, compare the export with JAX, measure on unseen scans, write the pictures."""
    began = time.process_time()
    params, statistics = train()
    print(f"trained in {time.process_time() - began:.0f} s of processor time")
    model = to_onnx({name: np.asarray(value) for name, value in {**params, **statistics}.items()})
    path = HERE / "contrastive_digits.onnx"
    onnx.save(model, path)

    train_scans, test_scans = load_scans("train"), load_scans("test")
    bank = draw(train_scans, np.arange(len(train_scans.images)), np.random.default_rng(BANK_SEED))
    rng = np.random.default_rng(TEST_SEED)
    test = draw(test_scans, rng.integers(len(test_scans.images), size=TEST_VIEWS), rng)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    bank_vectors, test_vectors = (
        session.run(None, {"image": as_input(views.pictures)})[0] for views in (bank, test)
    )
    ours = embed(params, statistics, as_input(test.pictures), training=False)[0]
    gap = float(np.abs(test_vectors - np.asarray(ours)).max())
    if gap > EXPORT_TOLERANCE:
        raise SystemExit(f"the exported model is {gap:.1e} off the JAX one; allowed: {EXPORT_TOLERANCE}")

    right = knn_labels(test_vectors, bank_vectors, bank.labels) == test.labels
    rng = np.random.default_rng(EPISODE_SEED)
    episodes = np.array([one_shot_episode(test_vectors, test.labels, rng) for _ in range(EPISODES)])
    _write_pictures()
    (HERE / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    recipe = {"channels": "L", "size": SIZE, "subtract": 0, "divide": 255}
    (HERE / "preprocess.json").write_text(json.dumps(recipe, indent=2) + "\n")
    print(f"kNN accuracy {bootstrap(right.astype(float))} on {TEST_VIEWS} views of unseen scans")
    print(f"5-way 1-shot accuracy {bootstrap(episodes)} over {EPISODES} episodes")
    print(f"ONNX against JAX: largest difference {gap:.1e}; file {path.stat().st_size} bytes")
    print(
        f"{time.process_time() - began:.0f} s of processor time in all, Python {platform.python_version()}, "
        f"JAX {jax.__version__}"
    )


def train(steps: int = STEPS) -> tuple[Params, Params]:
    """Adam with decoupled weight decay and a one-cycle learning rate; weights and running statistics."""
    scans = load_scans("train")
    params, statistics = initialise(jax.random.key(WEIGHT_SEED))
    state = params, statistics, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(TRAIN_SEED)
    losses = []
    for step in range(1, steps + 1):
        picks = rng.choice(len(scans.images), BATCH, replace=False)
        pictures = as_input(draw(scans, np.concatenate([picks, picks]), rng).pictures)
        state, loss = _update(state, pictures, _rate(step / steps), float(step))
        losses.append(loss)
        if step % 100 == 0:
            print(f"step {step}: loss {np.mean(losses[-100:]):.4f}", flush=True)
    return state[0], state[1]


def contrastive_loss(embeddings: jax.Array) -> jax.Array:
    """NT-Xent: each of the 2 N embeddings (length one; row i and row N + i are a pair) is to be found by its
    partner among all others."""
    count = len(embeddings)
    similarity = embeddings @ embeddings.T / TEMPERATURE
    similarity = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, similarity)
    partner = (jnp.arange(count) + count // 2) % count
    picked = jnp.take_along_axis(jax.nn.log_softmax(similarity), partner[:, None], axis=1)
    return -picked.mean()


def _rate(progress: float) -> float:
    """Up linearly over the first tenth, then down along a cosine."""
    if progress < 0.1:
        return PEAK_RATE * progress / 0.1
    return PEAK_RATE * 0.5 * (1.0 + math.cos(math.pi * (progress - 0.1) / 0.9))


State = tuple[Params, Params, Params, Params]


@jax.jit
def _update(state: State, pictures: jax.Array, rate: float, step: float) -> tuple[State, jax.Array]:
    params, statistics, first, second = state

    def loss_of(candidate: Params) -> tuple[jax.Array, Params]:
        embeddings, moved = embed(candidate, statistics, pictures, training=True)
        return contrastive_loss(embeddings), moved

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

    def move(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = m / (1.0 - 0.9**step) / (jnp.sqrt(v / (1.0 - 0.999**step)) + 1e-8)
        return p - rate * (direction + DECAY * p)

    return (jax.tree.map(move, params, first, second), statistics, first, second), loss


def shown() -> tuple[list[str], Views]:
    """Names and views of the pictures that are shipped, all of different unseen scans."""
    scans, rng = load_scans("test"), np.random.default_rng(SHOWN_SEED)
    wanted = [("support", digit) for digit in SUPPORTS] + [("query", digit) for digit in QUERIES]
    rows = {digit: list(rng.permutation(np.flatnonzero(scans.labels == digit))) for digit in range(CLASSES)}
    picks = np.array([rows[digit].pop() for _, digit in wanted])
    return [f"{role}_{digit}.png" for role, digit in wanted], draw(scans, picks, rng)


def _write_pictures() -> None:
    """The pictures that are shipped, and their truth."""
    folder = HERE / "inputs"
    folder.mkdir(exist_ok=True)
    lines = []
    names, views = shown()
    for name, picture, label, box in zip(names, views.pictures, views.labels, views.boxes, strict=True):
        Image.fromarray(picture).save(folder / name, optimize=True)
        entry = {"label": int(label), "box": [int(edge) for edge in box]}
        lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    (folder / "truth.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
