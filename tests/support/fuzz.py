"""Requests that nobody means: bytes for the wire, made by chance from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import reference_bank_pb2 as rb
from naflow.v1 import similarity_pb2 as sim
from naflow.v1 import tensor_pb2 as te
from support.blocks import picture
from support.grpc_server import request, tensor

MODEL = "residual"
CLASSES = 4  # of its output, which counts as an embedding here
MESSAGE_BYTES = 1 << 20  # what the fuzzed server takes
NAMES = ["nowhere", "residual2", "", "..", "a/b", "/etc/passwd", "\x00", "residual ", "%s%n", "\u202e"]
NAMES += ["\u2603" * 3000, "x" * 200_000]
WORDS = ["", "x", "paper", "spine", "top", "9" * 400, "-1", "../1", "\n", "\U0001f600", "r0"]
INTEGERS = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 1e-45, 1e300, float("nan"), float("inf"), float("-inf")]


def valid() -> ex.ExplainRequest:
    """What a caller might send, with most fields set."""
    message = request(picture(0), MODEL, top_k=3, layers=me.Layers(tensors=["top", "b"]))
    message.method.CopyFrom(me.Method(preset="paper", tolerance=1e-2, max_iterations=9, feasible=True))
    message.target.class_target.class_index = 1
    return message


def flipped(chance: random.Random) -> bytes:
    """Some bytes of a valid request are others."""
    raw = bytearray(request(picture(0), MODEL).SerializeToString())
    for _ in range(chance.randint(1, 8)):
        raw[chance.randrange(min(len(raw), 200))] = chance.randrange(256)
    return bytes(raw)


def noise(chance: random.Random) -> bytes:
    """No request at all."""
    return chance.randbytes(chance.randint(0, 300))


def cut(chance: random.Random) -> bytes:
    """The beginning of a valid request."""
    raw = valid().SerializeToString()
    return raw[: chance.randrange(len(raw))]


def odd_tensor(chance: random.Random) -> bytes:
    """Types, ranks and sizes from tiny to absurd, with data that hardly ever fits."""
    rank = chance.choice([0, 1, 3, 4, 6, 40])
    sizes = [chance.choice([0, 1, 2, 3, 32, -1, 2**31, 2**62]) for _ in range(rank)]
    count = chance.choice([0, 4, 48, 300, 2 * MESSAGE_BYTES if chance.random() < 0.2 else 299])
    tensor = te.Tensor(dtype=chance.randint(0, 14), shape=sizes, data=bytes(count))
    names = chance.choice([[""], ["x"], ["\x00", "y"], []])
    return ex.ExplainRequest(model_name=MODEL, inputs=dict.fromkeys(names, tensor)).SerializeToString()


def wrong_shape(chance: random.Random) -> bytes:
    """A sound tensor that the model does not take."""
    shapes = [(1, 3, 5, 6), (1, 3, 6, 5), (1, 4, 5, 5), (3, 5, 5), (1, 1, 3, 5, 5), (75,), (99, 3, 5, 5)]
    return request(np.zeros(chance.choice(shapes), np.float32), MODEL).SerializeToString()


def truncated(chance: random.Random) -> bytes:
    """A tensor with less data than its shape says, or more."""
    message = request(picture(0), MODEL)
    tensor = message.inputs[""]
    length = chance.choice([0, 1, 3, len(tensor.data) - 1, len(tensor.data) - 4, len(tensor.data) + 4])
    tensor.data = (tensor.data + bytes(4))[:length]
    return message.SerializeToString()


def odd_values(chance: random.Random) -> bytes:
    """One number of the picture is none, or enormous."""
    x = picture(0).copy()
    x.flat[chance.randrange(x.size)] = chance.choice([np.nan, np.inf, -np.inf, 3e38])
    return request(x, MODEL).SerializeToString()


def odd_names(chance: random.Random) -> bytes:
    """Names that are long, strange, or point elsewhere; a class or layers that do not exist."""
    message = request(picture(0), chance.choice([*NAMES, MODEL, MODEL]))
    for _ in range(chance.randint(0, 2)):
        match chance.randrange(4):
            case 0:
                message.model_version = chance.choice(["7", "-1", "../1", "9" * 400])
            case 1:
                message.request_id = chance.choice(["a\nb", "x" * 129, "\u2603"])
            case 2:
                names = chance.choice([["nowhere"] * chance.randint(1, 4000), ["\u2603" * 3000]])
                message.layers.tensors.extend(names)
            case _:
                message.target.class_target.class_index = chance.choice([10**9, -1, 2**63 - 1])
    return message.SerializeToString()


def odd_text(chance: random.Random) -> bytes:
    """Bytes that are not UTF-8 where text belongs."""
    number = chance.choice([1, 2, 7, 8, 9])  # fields of ExplainRequest that hold text
    text = chance.choice([b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"residual\x80", b"\xf8" * 40])
    return bytes([number << 3 | 2, len(text)]) + text + request(picture(0), MODEL).SerializeToString()


def odd_similarity(chance: random.Random) -> bytes:
    """References, supports or a bank with rows, labels and options that hardly ever fit together."""
    count, width = chance.choice([1, 2, 2, 3, 5000]), chance.choice([CLASSES, CLASSES, 1, 7])
    rows = np.arange(1, 1 + count * width, dtype=np.float32).reshape(count, width)
    if chance.random() < 0.3:
        rows[chance.randrange(count)] = chance.choice([np.nan, np.inf, 0, 3e38, 1e-45])
    labels = [chance.choice(["a", "b", *WORDS]) for _ in range(chance.choice([0, 1, count, count]))]
    how = sim.Comparison(metric=chance.choice(["", "cosine", "dot", "euclidean", "image-to-class", *NAMES]))
    how.coefficients = chance.choice([0, 1, 2, 3, -1])  # type: ignore[assignment]
    message = request(picture(0), MODEL)
    match chance.randrange(4):
        case 0:
            one = message.target.similarity_target
            one.references.embeddings.CopyFrom(tensor(rows))
            one.comparison.CopyFrom(how)
            one.paired = chance.random() < 0.3
        case 1:
            sizes = chance.choice([(1, 3, 5, 5), (2, 3, 5, 5), (1, 3, 5, 6), (1, 5, 5), (99, 3, 5, 5), (1,)])
            own = message.target.similarity_target.references.pictures.inputs
            own[chance.choice(["", "x", "y", "\x00"])].CopyFrom(tensor(np.ones(sizes, np.float32)))
        case 2:
            episode = message.target.prototype_target
            episode.supports.embeddings.CopyFrom(tensor(rows))
            episode.labels.extend(labels)
            episode.wanted = chance.choice(["", "a", *WORDS, *NAMES])
            episode.contrast = chance.random() < 0.3
            episode.comparison.CopyFrom(how)
        case _:
            bank = message.target.bank_target
            if chance.random() < 0.5:
                bank.bank_name = chance.choice([*NAMES, "nobody"])
            else:
                bank.embeddings.embeddings.CopyFrom(tensor(rows))
                bank.embeddings.labels.extend(labels)
                bank.embeddings.model_sha256 = chance.choice(["", "", "ab" * 32, "x"])
            bank.neighbours = chance.choice([0, 1, 2, 2**32 - 1])
            bank.wanted = chance.choice(["", "", "a", *WORDS])
            if chance.random() < 0.3:
                bank.temperature = chance.choice(FLOATS)
            bank.comparison.CopyFrom(how)
    return message.SerializeToString()


def bank_call(chance: random.Random) -> tuple[str, bytes]:
    """A method of the banks' service, and a request of which one or two fields are something else."""
    name, digest = chance.choice(["b1", "b2", *NAMES]), chance.choice(["ab" * 32, "ab" * 32, "cd" * 32])
    width = chance.choice([3, 3, 4])
    rows = tensor(np.ones((chance.choice([1, 2]), width), np.float32))
    sound: dict[str, Message] = {
        "CreateBank": rb.CreateBankRequest(bank_name=name, dimension=width, model_sha256=digest),
        "AppendReferences": rb.AppendReferencesRequest(
            bank_name=name, model_sha256=digest, embeddings=rows, labels=["a"] * rows.shape[0]
        ),
        "ListBanks": rb.ListBanksRequest(),
        "GetBank": rb.GetBankRequest(bank_name=name),
        "DeleteBank": rb.DeleteBankRequest(bank_name=name),
    }
    method = chance.choice([*sound, "AppendReferences"])
    message = sound[method]
    for _ in range(chance.randint(0, 2) if message.DESCRIPTOR.fields else 0):
        _mutate(message, chance)
    raw = bytearray(message.SerializeToString())
    if raw and chance.random() < 0.1:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return f"ReferenceBankService/{method}", bytes(raw)


def mutated(chance: random.Random) -> bytes:
    """A valid request with one to three fields, at any depth, set to something else of their type."""
    message = valid()
    if chance.random() < 0.3:
        own = message.target.prototype_target
        own.supports.embeddings.CopyFrom(tensor(np.ones((1, CLASSES), np.float32)))
        own.labels.append("a")
    for _ in range(chance.randint(1, 3)):
        _mutate(message, chance)
    return message.SerializeToString()


def _mutate(message: Message, chance: random.Random) -> None:
    field = chance.choice(message.DESCRIPTOR.fields)
    value: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key = chance.choice(["", "x", "other"])
        _mutate(value[key], chance)
    elif field.message_type is not None and hasattr(value, "add"):
        _mutate(value.add(), chance)
    elif field.message_type is not None:
        value.SetInParent()
        _mutate(value, chance)
    elif hasattr(value, "extend"):
        del value[chance.randint(0, len(value)) :]
        value.extend(_scalar(field, chance) for _ in range(chance.choice([0, 1, 2, 40])))
    else:
        setattr(message, field.name, _scalar(field, chance))


def _scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice([0, 1, 300, 4096]))
        return chance.choice(NAMES + WORDS)
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    number = chance.choice(INTEGERS)
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        bits = 32 if kind == FieldDescriptor.CPPTYPE_UINT32 else 64
        return number % 2**bits
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM):
        return (number + 2**31) % 2**32 - 2**31
    return number


MAKERS: list[Callable[[random.Random], bytes]] = [
    flipped,
    noise,
    cut,
    odd_tensor,
    wrong_shape,
    truncated,
    odd_values,
    odd_names,
    odd_text,
    odd_similarity,
    mutated,
]
