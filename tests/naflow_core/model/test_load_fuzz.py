"""Damaged bytes either load or are refused with a ModelError; nothing else happens."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from naflow_core.errors import ModelError
from naflow_core.model import Limits, read_model
from naflow_core.model.wire import decode_varint, encode_varint
from support.onnx_graphs import make_model

node = helper.make_node
LIMITS = Limits(tensor_bytes=16 << 20, total_bytes=32 << 20)
MEMORY_BYTES = 64 << 20


def _network() -> bytes:
    """A small convolutional network at an old opset, so that every stage of loading has work to do."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="conv"),
        node("BatchNormalization", ["a", "s", "s", "s", "s"], ["n"]),
        node("Clip", ["n"], ["r"], min=0.0, max=6.0),
        node("Upsample", ["r", "k"], ["u"], mode="nearest"),
        node("MaxPool", ["u"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Constant", [], ["shape"], value=helper.make_tensor("t", 7, [2], [0, -1])),
        node("Reshape", ["p", "shape"], ["f"]),
        node("Gemm", ["f", "d", "e"], ["g"], transB=1),
        node("Softmax", ["g"], ["y"], axis=1),
    ]
    constants = {
        "w": rng.normal(size=(4, 1, 3, 3)),
        "s": np.ones(4),
        "k": np.array([1, 1, 2, 2]),
        "d": rng.normal(size=(20, 64)),
        "e": np.zeros(20),
    }
    model = make_model(
        nodes,
        {"x": ("N", 1, 4, 4)},
        constants={k: v.astype(np.float32) for k, v in constants.items()},
        opset=9,
    )
    return model.SerializeToString()


DATA = _network()


def _load_or_refuse(data: bytes) -> bool:
    try:
        read_model(data, LIMITS)
    except ModelError as error:
        text = str(error)
        assert text.startswith("<bytes>: ")
        assert text.isprintable()
        return False
    return True


@pytest.fixture(autouse=True)
def bounded_memory() -> object:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_BYTES


def test_the_whole_network_loads() -> None:
    assert _load_or_refuse(DATA)


def test_cut_off_anywhere() -> None:
    for end in np.linspace(1, len(DATA) - 1, 60, dtype=int):
        _load_or_refuse(DATA[:end])


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed: int) -> None:
    rng = random.Random(seed)
    # Half of the damage goes to the structure in front, where the nodes are.
    for trial in range(100):
        damaged = bytearray(DATA)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(700 if trial % 2 else len(DATA))] = rng.randrange(256)
        _load_or_refuse(bytes(damaged))


def test_removed_and_repeated_pieces() -> None:
    rng = random.Random(7)
    for _ in range(60):
        start, end = sorted(rng.randrange(len(DATA)) for _ in range(2))
        _load_or_refuse(DATA[:start] + DATA[end:])
        _load_or_refuse(DATA[:end] + DATA[start:])


_NAMES = st.sampled_from(["x", "a", "n", "u", "f", "g", "y", "w", "k", ""])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_well_formed_nonsense(draw: st.DataObject) -> None:
    """Bytes that decode, with fields that mean nothing: attributes, links and sizes out of place."""
    model = ModelProto.FromString(DATA)
    for _ in range(draw.draw(st.integers(1, 3))):
        victim = draw.draw(st.sampled_from(list(model.graph.node)))
        match draw.draw(st.integers(0, 5)):
            case 0 if victim.input:
                victim.input[draw.draw(st.integers(0, len(victim.input) - 1))] = draw.draw(_NAMES)
            case 1:
                victim.output[0] = draw.draw(_NAMES)
            case 2 if victim.attribute:
                chosen = draw.draw(st.sampled_from(list(victim.attribute)))
                chosen.i = draw.draw(st.integers(-(2**63), 2**63 - 1))
                chosen.type = draw.draw(st.integers(0, 14))
                if chosen.ints:
                    chosen.ints[0] = chosen.i
            case 3:
                victim.op_type = draw.draw(
                    st.sampled_from(["Split", "Pad", "Slice", "Squeeze", "If", "TopK", "Cast"])
                )
            case 4:
                tensor = draw.draw(st.sampled_from(list(model.graph.initializer)))
                tensor.dims.append(draw.draw(st.integers(-(2**63), 2**63 - 1)))
            case _:
                del victim.input[draw.draw(st.integers(0, 2)) :]
    _load_or_refuse(model.SerializeToString())


@given(st.integers(0, 2**63))
def test_varints(value: int) -> None:
    assert decode_varint(encode_varint(value)) == value
