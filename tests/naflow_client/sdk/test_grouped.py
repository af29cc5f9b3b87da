"""Several maps in one message, and requests as the bytes that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from naflow.v1 import explanation_pb2
from naflow_client import BrokenStreamError, Client, ExplainOptions, Flow, RequestError
from naflow_client._core.requests import DTYPES, explain_request, tensor
from naflow_client._core.wire import Request
from support.explanation_server import (
    MODEL,
    Event,
    Scripted,
    answer,
    flow,
    grouped,
    header,
    layer_error,
    maps,
    summary,
    tagged,
)
from support.many_inputs import check, inputs, value, whole

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 1, 3, 4)
Server = tuple[Scripted, str]


@pytest.mark.parametrize("most", [1, 2, 3, 7])
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_group_reads_as_its_maps_one_by_one(driver: Any, server: Server, most: int, pictures: int) -> None:
    servicer, target = server
    sent, x = maps(7, pictures), np.repeat(X, pictures, 0)
    servicer.play(answer(sent))
    alone = driver.explain(target, MODEL, x)
    assert servicer.requests[0].grouped_flows, "the SDK asks, and this server gives none"
    servicer.play(grouped(answer(sent), most))
    together = driver.explain(target, MODEL, x)
    assert [item.key for item in together.flows] == [item.key for item in alone.flows]
    for got, single, wanted in zip(together.flows, alone.flows, sent, strict=True):
        assert got.map.tobytes() == single.map.tobytes() == wanted.tobytes()
        assert got.map.dtype == np.float32
        assert not got.map.flags.writeable
        for picture in range(pictures):
            assert got.diagnostics.to_dict(picture) == single.diagnostics.to_dict(picture)
    assert together.summary == alone.summary


def test_diagnostics_are_typed_and_read_only(server: Server) -> None:
    servicer, target = server
    servicer.play(grouped(answer(maps(2, 2))))
    with Client(target) as client:
        found = client.explain(MODEL, np.repeat(X, 2, 0)).collect().flows[0].diagnostics
    arrays = {
        "retained_fraction": (np.float64, [0.5, 0.5]),
        "iterations": (np.int64, [7, 7]),
        "relative_residual": (np.float64, [1e-4, 1e-4]),
        "converged": (np.bool_, [True, True]),
        "conservation_gap": (np.float64, [0.0, 0.0]),
    }
    for name, (dtype, values) in arrays.items():
        array = getattr(found, name)
        assert (array.dtype, array.tolist()) == (dtype, values)
        assert not array.flags.writeable


def test_groups_stand_between_everything_else_in_order(server: Server) -> None:
    servicer, target = server
    sent = maps(6)
    alive = Event(progress=explanation_pb2.Progress(layers_total=6))
    parts = [
        [header(sent)],
        grouped([*flow(5, sent[5]), *flow(4, sent[4])]),
        [alive],
        flow(3, sent[3], chunk=16),
        [layer_error(2)],
        grouped([*flow(1, sent[1]), *flow(0, sent[0])]),
        [summary(5, 1)],
    ]
    servicer.play([event for part in parts for event in part])
    with Client(target) as client, client.explain(MODEL, X) as stream:
        items = list(stream.events())
    names = [type(item).__name__ for item in items]
    assert names == ["Flow", "Flow", "Progress", "Flow", "LayerFailure", "Flow", "Flow", "Summary"]
    assert [item.index for item in items if isinstance(item, Flow)] == [5, 4, 3, 1, 0]


def no_maps(events: list[Event]) -> None:
    del events[1].layer_flows.flows[:]


def in_pieces(events: list[Event]) -> None:
    events[1].layer_flows.flows[1].data = b""


def twice(events: list[Event]) -> None:
    events[1].layer_flows.flows[1].CopyFrom(events[1].layer_flows.flows[0])


def short_data(events: list[Event]) -> None:
    events[1].layer_flows.flows[1].data = events[1].layer_flows.flows[1].data[:-4]


def another_shape(events: list[Event]) -> None:
    events[1].layer_flows.flows[1].shape[1] += 1


def unknown_layer(events: list[Event]) -> None:
    events[1].layer_flows.flows[1].index = 17


def too_few(events: list[Event]) -> None:
    del events[1].layer_flows.flows[1]


def no_header(events: list[Event]) -> None:
    del events[0]


def after_the_summary(events: list[Event]) -> None:
    events.append(events[1])


def among_pieces(events: list[Event]) -> None:
    first = flow(2, maps(3)[2], chunk=16)
    events[1:2] = [*first[:2], *grouped([*flow(1, maps(3)[1]), *flow(0, maps(3)[0])]), *first[2:]]


DAMAGE = [
    no_maps,
    in_pieces,
    twice,
    short_data,
    another_shape,
    unknown_layer,
    too_few,
    no_header,
    after_the_summary,
    among_pieces,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_group_is_never_a_result(
    driver: Any, server: Server, damage: Callable[[list[Event]], None]
) -> None:
    servicer, target = server
    events = grouped(answer(maps(3)))
    damage(events)
    servicer.play(events)
    with pytest.raises(BrokenStreamError, match=r"the stream is broken: "):
        driver.explain(target, MODEL, X)
    assert len(servicer.requests) == 1, "a broken stream is not tried again"


def test_groups_of_many_inputs(driver: Any, server: Server) -> None:
    """Interleaved; a damaged one is its input's own."""
    servicer, target = server

    def script(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        waiting = []
        for request in requests:
            assert request.grouped_flows
            events = grouped(whole(request))
            if value(request) == 1:
                events[1].layer_flows.flows[0].data = b"short"
            waiting.append(tagged(events, request.request_id))
            if len(waiting) == 3:
                for events in zip(*waiting, strict=True):
                    yield from events

    servicer.play_streams(script)
    outcomes = driver.explain_many(target, MODEL, inputs(3))
    assert isinstance(outcomes[1].error, BrokenStreamError)
    check(outcomes[0])
    check(outcomes[2])


OPTIONS = ExplainOptions(request_id="me", layers=["a"])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=200).filter(lambda name: name.isprintable()),
        st.sampled_from(sorted(DTYPES)).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_side=9, min_side=0))
        ),
        max_size=3,
    )
)
def test_a_request_is_what_protobuf_makes_of_it(given_inputs: dict[str, np.ndarray]) -> None:
    message = explain_request(MODEL, OPTIONS)
    made = Request.of(message, given_inputs)
    for name, array in given_inputs.items():
        message.inputs[name].CopyFrom(tensor(array, name))
    assert made.request_id == "me"
    read = explanation_pb2.ExplainRequest.FromString(made.serialised())
    assert read.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def test_a_request_is_fixed_when_it_is_made() -> None:
    """Callers may use their arrays again, and retries send what was asked first."""
    x = X.copy()
    request = Request.of(explain_request(MODEL, OPTIONS), {"x": x, "y": x[..., ::2]})
    before = request.serialised()
    x[:] = 7
    read = explanation_pb2.ExplainRequest.FromString(before)
    assert request.serialised() is before
    assert read.inputs["x"].data == X.tobytes()
    assert read.inputs["y"].data == X[..., ::2].tobytes()


def test_a_large_input_arrives(driver: Any, server: Server) -> None:
    servicer, target = server
    x = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    servicer.play(answer(maps(1)))
    driver.explain(target, MODEL, {"image": x})
    (request,) = servicer.requests
    assert request.inputs["image"].data == x.tobytes()
    assert list(request.inputs["image"].shape) == list(x.shape)


def test_a_dtype_without_a_place_on_the_wire_is_named(driver: Any, server: Server) -> None:
    _, target = server
    with pytest.raises(RequestError, match=r"inputs\['x'\] has dtype complex64") as caught:
        driver.explain(target, MODEL, {"x": X.astype(np.complex64)})
    assert caught.value.field == "inputs"
