"""Pairs of pictures for similarity_deletion.py: digits, and photographs with networks of a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from PIL import Image

import naflow_core as nf

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "contrastive_digits"
sys.path.insert(0, str(EXAMPLE))

from views import as_input, draw, draw_two, load_scans  # noqa: E402  (a folder of scripts, not a package)

DIGITS_MODEL = EXAMPLE / "contrastive_digits.onnx"
DIGITS_TOP = "top_relu"
FLOW, REFERENCE, SHUFFLED = "flow", "random reference", "shuffled channels"
BATCH = 64  # pictures that onnxruntime gets at a time
LAYERS = 4  # of a photograph's flow, evenly spaced, the top one included
REPEATS = 2  # pairs of each photograph

Embed = Callable[[np.ndarray], np.ndarray]
Tensors = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A network with an embedding as output.

    Attributes:
        model, session: in NAFlow and in onnxruntime.
        as_input: pictures uint8 [N, H, W] or [N, H, W, 3] to what the network takes.
        metric: its similarity, "cosine" or "image-to-class".
        batch: pictures at a time.
    """

    model: nf.Model
    session: onnxruntime.InferenceSession
    as_input: Tensors
    metric: str
    batch: int

    @classmethod
    def of(cls, proto: onnx.ModelProto, tensors: Tensors, metric: str, batch: int) -> Encoder:
        """From an ONNX model with one input and one output."""
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return cls(nf.load(proto), session, tensors, metric, batch)

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """Embeddings [N, C, ...], as onnxruntime computes them."""
        name = self.session.get_inputs()[0].name
        parts = [pictures[i : i + self.batch] for i in range(0, len(pictures), self.batch)]
        return np.concatenate([self.session.run(None, {name: self.as_input(part)})[0] for part in parts])

    def similarity(self, embeddings: np.ndarray, references: np.ndarray) -> np.ndarray:
        """[N] of pair by pair, in plain numpy."""
        if self.metric == "image-to-class":
            return self.places(embeddings, references).mean(axis=(1, 2))
        first, second = (_unit(rows.reshape(len(rows), -1), 1) for rows in (embeddings, references))
        return np.asarray((first * second).sum(axis=1))

    def places(self, embeddings: np.ndarray, references: np.ndarray) -> np.ndarray:
        """[N, h, w]: mean cosine of each local descriptor and its 3 nearest of the other picture."""
        pairs = zip(embeddings, references, strict=True)
        return np.stack([_descriptors(e, r).reshape(e.shape[1:]) for e, r in pairs])


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Queries and what they are compared with.

    Attributes:
        name: what kind of pairs.
        queries: uint8 [N, H, W] or [N, H, W, 3].
        references: embeddings [N, C, ...] of the flow and of its controls.
        groups: [N]; pairs of one group share their photograph and are no independent observations.
        first: [N] whether the left (upper) half of a query is the one that it shares with its reference; None
            for queries without halves.
        axis: of a map [N, h, w] that the halves divide.
        layers: how many, None for all.
    """

    name: str
    queries: np.ndarray
    references: dict[str, np.ndarray]
    groups: np.ndarray
    first: np.ndarray | None = None
    axis: int = 2
    layers: int | None = None


def _unit(rows: np.ndarray, axis: int) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=axis, keepdims=True), np.finfo(np.float32).tiny)


def _descriptors(embedding: np.ndarray, reference: np.ndarray) -> np.ndarray:
    first, second = (_unit(e.reshape(len(e), -1), 0) for e in (embedding, reference))
    return np.asarray(np.partition(first.T @ second, -3, axis=1)[:, -3:].mean(axis=1))


def digits(count: int, seed: int) -> tuple[Encoder, Iterator[Pairs]]:
    """Pairs of the contrastive digits' encoder: one digit in the query, and two."""
    encoder = Encoder.of(onnx.load(DIGITS_MODEL), as_input, "cosine", BATCH)
    return encoder, _digit_pairs(encoder.embed, count, seed)


def digit_descriptors(count: int, seed: int) -> tuple[Encoder, Iterator[Pairs]]:
    """The same pairs for the local descriptors of its last feature map."""
    proto = onnx.load(DIGITS_MODEL)
    _end_at(proto, DIGITS_TOP, False)
    encoder = Encoder.of(proto, as_input, "image-to-class", BATCH)
    return encoder, _digit_pairs(encoder.embed, count, seed)


def _digit_pairs(embed: Embed, count: int, seed: int) -> Iterator[Pairs]:
    scans, rng = load_scans("test"), np.random.default_rng(seed)
    labels = rng.integers(10, size=count)
    same = np.array([rng.choice(np.flatnonzero(scans.labels == digit), 2, replace=False) for digit in labels])
    others = np.array([rng.choice(np.flatnonzero(scans.labels != digit)) for digit in labels])
    beside = np.array([rng.choice(np.flatnonzero(scans.labels == scans.labels[other])) for other in others])
    wanted = embed(draw(scans, same[:, 1], rng).pictures)
    references = {
        FLOW: wanted,
        REFERENCE: embed(draw(scans, others, rng).pictures),
        SHUFFLED: wanted[:, rng.permutation(wanted.shape[1])],
    }
    yield Pairs("one digit", draw(scans, same[:, 0], rng).pictures, references, np.arange(count))
    both, on_left = draw_two(scans, same[:, 0], beside, rng)
    yield Pairs("two digits", both, references, np.arange(count), on_left)


@dataclass(frozen=True, slots=True)
class Photograph:
    """RGB pixels, the box (left, top, right, bottom) of its one object, and its labels."""

    pixels: Image.Image
    box: tuple[int, int, int, int]
    labels: frozenset[int]


def photographs(folder: Path) -> list[Photograph]:
    """Those of a folder's images/manifest.json that show one object and say where."""
    entries = json.loads((folder / "images" / "manifest.json").read_text())
    return [
        Photograph(
            Image.open(folder / entry["path"]).convert("RGB"),
            tuple(entry["boxes_xyxy"][0]),
            frozenset(entry["imagenet_labels"]),
        )
        for entry in entries
        if len(entry["boxes_xyxy"]) == 1
    ]


@dataclass(frozen=True, slots=True)
class Network:
    """How to make an encoder of a file in models/.

    Attributes:
        size: of its pictures, (rows, columns).
        subtract, divide: of each colour.
        reverse: blue comes first.
        channels_last: the layout.
        embedding: the tensor that is the embedding; the output when empty.
        pool: take the mean over this tensor's places.
        metric: see `Encoder`.
    """

    size: tuple[int, int]
    subtract: tuple[float, ...]
    divide: tuple[float, ...]
    reverse: bool = False
    channels_last: bool = False
    embedding: str = ""
    pool: bool = False
    metric: str = "cosine"


NETWORKS = {
    "osnet_x0_25_msmt17": Network((256, 128), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "relationnet_miniimagenet_conv4_encoder": Network(
        (84, 84), (235.12,) * 3, (21.49,) * 3, metric="image-to-class"
    ),
    "mobilenetv2_100_224_tf_logits": Network(
        (224, 224),
        (127.5,) * 3,
        (127.5,) * 3,
        channels_last=True,
        embedding="MobilenetV2/Logits/AvgPool_prequant",
    ),
    "squeezenet11_fp32_winml": Network(
        (224, 224), (104, 117, 123), (1, 1, 1), reverse=True, embedding="fire9/concat_1", pool=True
    ),
}


def encoder_of(folder: Path, name: str) -> Encoder:
    """The encoder of one of `NETWORKS`: up to its embedding."""
    network, proto = NETWORKS[name], onnx.load(folder / "models" / f"{name}.onnx")
    if network.embedding:
        _end_at(proto, network.embedding, network.pool)
    order = [2, 1, 0] if network.reverse else [0, 1, 2]

    def tensors(pictures: np.ndarray) -> np.ndarray:
        values = (pictures[..., order] - np.float32(network.subtract)) / np.float32(network.divide)
        return np.ascontiguousarray(values if network.channels_last else values.transpose(0, 3, 1, 2))

    return Encoder.of(proto, tensors, network.metric, 1)


def _end_at(proto: onnx.ModelProto, tensor: str, pool: bool) -> None:
    """Make a tensor, or the mean over its places, the only output of a model."""
    graph = proto.graph
    needed, kept = {tensor}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    nodes = kept[::-1] + ([helper.make_node("GlobalAveragePool", [tensor], ["embedding"])] if pool else [])
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(copied)
    weights = [value for value in graph.initializer if value.name in needed]
    inputs = [value for value in graph.input if value.name in needed]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(weights)
    graph.input.extend(inputs)
    name = "embedding" if pool else tensor
    graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    proto.CopyFrom(onnx.shape_inference.infer_shapes(proto))


def photograph_pairs(encoder: Encoder, folder: Path, name: str, seed: int) -> Iterator[Pairs]:
    """Three kinds of pairs of photographs for one network.

    * same photograph: two crops of one, mirrored and brightened at random;
    * same label: different photographs of one ImageNet class;
    * two photographs: half of the query shows another crop of the reference's photograph, half another one;
      the random reference is a crop of the latter.
    """
    found, rng = photographs(folder), np.random.default_rng(seed)
    rows, columns = NETWORKS[name].size
    tall = rows > columns
    half = (rows // 2, columns) if tall else (rows, columns // 2)

    def views(which: np.ndarray, size: tuple[int, int] = (rows, columns)) -> np.ndarray:
        return np.stack([_view(found[i], size, rng) for i in which])

    def strangers(which: np.ndarray) -> np.ndarray:
        return np.array(
            [
                rng.choice([j for j, other in enumerate(found) if not found[i].labels & other.labels])
                for i in which
            ]
        )

    def references(gallery: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
        wanted = encoder.embed(views(gallery))
        shuffled = wanted[:, rng.permutation(wanted.shape[1])]
        return {FLOW: wanted, REFERENCE: encoder.embed(views(others)), SHUFFLED: shuffled}

    each = np.tile(np.arange(len(found)), REPEATS)
    yield Pairs("same photograph", views(each), references(each, strangers(each)), each, layers=LAYERS)
    alike = [
        (i, j)
        for i, one in enumerate(found)
        for j, other in enumerate(found)
        if i != j and one.labels & other.labels
    ]
    query, gallery = np.array(alike).T
    yield Pairs("same label", views(query), references(gallery, strangers(query)), query, layers=LAYERS)
    beside, first = strangers(each), rng.random(len(each)) < 0.5
    wanted, other = views(each, half), views(beside, half)
    both = np.where(
        first.reshape(-1, 1, 1, 1, 1),
        np.stack([wanted, other], axis=1),
        np.stack([other, wanted], axis=1),
    )
    both = np.concatenate([both[:, 0], both[:, 1]], axis=1 if tall else 2)
    yield Pairs("two photographs", both, references(each, beside), each, first, 1 if tall else 2, LAYERS)


def _view(photograph: Photograph, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """uint8 [rows, columns, 3]: a crop around the object in the shape of `size`."""
    left, top, right, bottom = photograph.box
    shape = size[1] / size[0]
    height = max(bottom - top, (right - left) / shape) * rng.uniform(0.8, 1.1)
    height = min(height, photograph.pixels.height, photograph.pixels.width / shape)
    width = height * shape
    x = (left + right - width) / 2 + rng.uniform(-0.1, 0.1) * width
    y = (top + bottom - height) / 2 + rng.uniform(-0.1, 0.1) * height
    x = min(max(x, 0.0), photograph.pixels.width - width)
    y = min(max(y, 0.0), photograph.pixels.height - height)
    crop = photograph.pixels.resize(size[::-1], Image.Resampling.BICUBIC, (x, y, x + width, y + height))
    pixels: Any = np.asarray(crop, np.float32) * rng.uniform(0.85, 1.15)
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
