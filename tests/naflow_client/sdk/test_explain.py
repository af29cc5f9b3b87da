"""An explanation over the wire: what comes back, how it breaks, how it is cancelled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from naflow.v1 import explanation_pb2, model_report_pb2
from naflow_client import (
    BrokenStreamError,
    BusyError,
    CallError,
    Client,
    NotFoundError,
    PreprocessingError,
    Progress,
    RequestError,
    ServerError,
    UnavailableError,
    UnsupportedError,
)
from support.explanation_server import (
    MODEL,
    Event,
    Scripted,
    ScriptedError,
    answer,
    bad_field,
    come_back,
    flow,
    header,
    info,
    layer_error,
    maps,
    summary,
)

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 1, 3, 4)
Server = tuple[Scripted, str]


@pytest.mark.parametrize("chunk", [0, 4, 44, 1 << 20])
@pytest.mark.parametrize("pictures", [1, 2])
def test_everything_arrives_as_sent(driver: Any, server: Server, chunk: int, pictures: int) -> None:
    servicer, target = server
    sent = maps(4, pictures)
    servicer.play(answer(sent, chunk))
    result = driver.explain(target, MODEL, np.repeat(X, pictures, 0))
    assert [item.tensor for item in result.flows] == ["t0", "t1", "t2", "t3"]
    for got, wanted in zip(result.flows, sent, strict=True):
        assert got.map.dtype == np.float32
        np.testing.assert_array_equal(got.map, wanted)
        assert not got.map.flags.writeable
    head = result.header
    assert (head.model, head.version, head.sha256, head.output) == (MODEL, "1", "ab" * 32, "probabilities")
    assert [row.index for row in head.prediction.best] == [1, 0, 2]
    assert (head.prediction.target.index, head.prediction.target_score) == (1, 2.5)
    assert head.method == {
        "inverse": "least-squares",
        "rows": "retained",
        "weighting": "scaled",  # of a server from before there was another
        "abandon": "mass:0.95",
        "feasible": True,
        "anchor": "origin",
        "evidence": "positive",  # the same
        "damping": 0.3,
        "tolerance": 1e-3,
        "max_iterations": 200,
        "map_change": 0.0,
    }
    diagnostics = result.flows[2].diagnostics
    assert (diagnostics.node, diagnostics.shape, diagnostics.seconds) == ("n2", (pictures, 4, 3, 5), 0.25)
    assert diagnostics.iterations.tolist() == [9] * pictures
    assert diagnostics.warnings(0) == [
        "the solve did not converge: relative residual 0.0001 after 9 iterations"
    ]
    assert (result.summary.layers, result.summary.total, result.summary.iterations) == (4, 0.75, 40)
    request = servicer.requests[0]
    assert request.model_name == MODEL
    assert (
        np.frombuffer(request.inputs[""].data, "<f4").tolist() == np.repeat(X, pictures, 0).ravel().tolist()
    )
    assert list(request.inputs[""].shape) == [pictures, 1, 3, 4]


def test_half_and_double_precision_maps_become_float32(driver: Any, server: Server) -> None:
    servicer, target = server
    for dtype in ("float16", "float64"):
        sent = maps(2, 1, dtype)
        servicer.play(answer(sent))
        for got, wanted in zip(driver.explain(target, MODEL, X).flows, sent, strict=True):
            np.testing.assert_array_equal(got.map, wanted.astype(np.float32))


def test_failed_layers_and_signs_of_life(driver: Any, server: Server) -> None:
    servicer, target = server
    sent = maps(3)
    alive = Event(progress=explanation_pb2.Progress(layers_total=3, elapsed_seconds=1.5))
    events = [alive, header(sent), *flow(2, sent[2]), alive, layer_error(1), *flow(0, sent[0]), summary(2, 1)]
    servicer.play(events)
    result = driver.explain(target, MODEL, X)
    assert [item.index for item in result.flows] == [0, 2]
    (failure,) = result.failures
    assert (failure.index, failure.tensor) == (1, "t1")
    assert isinstance(failure.error, ServerError)
    assert (failure.error.reason, failure.error.message) == ("NUMERICAL", "no luck")
    with Client(target) as client:
        kinds = [type(item).__name__ for item in client.explain(MODEL, X).events()]
    assert kinds == [
        "Progress",
        "Header",
        "Flow",
        "Progress",
        "LayerFailure",
        "Flow",
        "Summary",
    ] or kinds == [
        "Progress",
        "Flow",
        "Progress",
        "LayerFailure",
        "Flow",
        "Summary",
    ]


def damaged(kind: str) -> list[Event]:
    """A good answer with one thing wrong."""
    sent = maps(3)
    events = answer(sent, 16)
    chunks = [event for event in events if event.WhichOneof("event") == "chunk"]
    flows = [event for event in events if event.WhichOneof("event") == "layer_flow"]
    if kind == "flipped bit":
        data = bytearray(chunks[1].chunk.data)
        data[3] ^= 1
        chunks[1].chunk.data = bytes(data)
    elif kind == "lost piece":
        events.remove(chunks[1])
    elif kind == "piece twice":
        events.insert(events.index(chunks[1]), chunks[0])
    elif kind == "no last piece":
        for event in chunks:
            event.chunk.last = False
    elif kind == "wrong shape":
        flows[0].layer_flow.shape[1] += 1
    elif kind == "wrong size":
        flows[0].layer_flow.byte_size = 1 << 60
    elif kind == "unknown layer":
        flows[0].layer_flow.index = 17
    elif kind == "layer twice":
        events[-1:-1] = flow(0, sent[0])
    elif kind == "short data":
        events = [header(sent), *flow(2, sent[2]), summary(1)]
        events[1].layer_flow.data = events[1].layer_flow.data[:-4]
    elif kind == "no header":
        del events[0]
    elif kind == "header twice":
        events.insert(1, events[0])
    elif kind == "no summary":
        del events[-1]
    elif kind == "wrong count":
        events[-1].summary.layers_sent = 4
    elif kind == "nothing":
        events = []
    elif kind == "after the summary":
        events.append(Event(progress=explanation_pb2.Progress()))
    elif kind == "unknown dtype":
        events[0].header.layers[0].dtype = 12
    elif kind == "no pictures":
        del events[0].header.predictions[:]
    else:
        raise AssertionError(kind)
    return events


@pytest.mark.parametrize(
    "kind",
    [
        "flipped bit",
        "lost piece",
        "piece twice",
        "no last piece",
        "wrong shape",
        "wrong size",
        "unknown layer",
        "layer twice",
        "short data",
        "no header",
        "header twice",
        "no summary",
        "wrong count",
        "nothing",
        "after the summary",
        "unknown dtype",
        "no pictures",
    ],
)
def test_a_broken_stream_is_never_a_result(driver: Any, server: Server, kind: str) -> None:
    servicer, target = server
    servicer.play(damaged(kind))
    with pytest.raises(BrokenStreamError, match=r"the stream is broken: "):
        driver.explain(target, MODEL, X)
    assert len(servicer.requests) == 1, "a broken stream is not tried again"


def test_events_of_a_newer_server_are_passed_over(driver: Any, server: Server) -> None:
    servicer, target = server
    sent = maps(2)
    events = answer(sent)
    servicer.play([events[0], Event.FromString(b"\xfa\x01\x02\x08\x01"), *events[1:]])
    assert len(driver.explain(target, MODEL, X).flows) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", RequestError),
        ("NOT_FOUND", NotFoundError),
        ("UNIMPLEMENTED", UnsupportedError),
        ("RESOURCE_EXHAUSTED", BusyError),
        ("INTERNAL", ServerError),
        ("UNKNOWN", ServerError),
        ("FAILED_PRECONDITION", RequestError),
    ],
)
def test_the_servers_reason_is_kept(driver: Any, server: Server, code: str, kind: type[CallError]) -> None:
    servicer, target = server
    why = ScriptedError(
        grpc.StatusCode[code],
        "tensor 'x' is wrong (give another)",
        info("TENSOR_INVALID", hint="give another", node="conv1"),
        bad_field("inputs[x]"),
    )
    servicer.play(why)
    with pytest.raises(kind) as caught:
        driver.explain(target, MODEL, X)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.reason, error.field) == (code, "TENSOR_INVALID", "inputs[x]")
    assert (error.message, error.hint) == ("tensor 'x' is wrong", "give another")
    assert (error.retry_after, error.metadata) == (None, {"node": "conv1"})
    assert str(error) == "tensor 'x' is wrong (give another)"
    assert len(servicer.requests) == 1


def test_details_that_cannot_be_read_do_not_hide_the_error(driver: Any, server: Server) -> None:
    servicer, target = server

    def script(request: Any, context: Any) -> Iterator[Event]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no model 'x'")
        yield Event()

    servicer.play(script)
    with pytest.raises(NotFoundError, match="no model 'x'"):
        driver.explain(target, MODEL, X)


def test_retries_before_the_first_message_only(driver: Any, server: Server) -> None:
    servicer, target = server
    sent = maps(2)
    down = ScriptedError(grpc.StatusCode.UNAVAILABLE, "going down", info("DRAINING"))
    busy = ScriptedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("QUEUE_FULL"), come_back(0.15))
    servicer.play(down, busy, answer(sent))
    begun = time.monotonic()
    assert len(driver.explain(target, MODEL, X).flows) == 2
    assert time.monotonic() - begun >= 0.15
    assert len(servicer.requests) == 3

    def breaks(request: Any, context: Any) -> Iterator[Event]:
        yield header(sent)
        raise down

    servicer.play(breaks, answer(sent))
    with pytest.raises(UnavailableError, match="going down"):
        driver.explain(target, MODEL, X)
    assert len(servicer.requests) == 1

    servicer.play(busy)
    with pytest.raises(BusyError) as caught:
        driver.explain(target, MODEL, X)
    assert caught.value.retry_after == pytest.approx(0.15)
    assert len(servicer.requests) == 4


def test_a_wish_beyond_the_deadline_fails_at_once(driver: Any, server: Server) -> None:
    servicer, target = server
    busy = ScriptedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("QUEUE_FULL"), come_back(30))
    servicer.play(busy)
    begun = time.monotonic()
    with pytest.raises(BusyError):
        driver.explain(target, MODEL, X, deadline=5)
    assert time.monotonic() - begun < 3


def test_no_server(driver: Any) -> None:
    with pytest.raises(UnavailableError, match=r"localhost:1: .*\(check the address"):
        driver.explain("localhost:1", MODEL, X)


def test_a_finished_stream_stays_finished(server: Server) -> None:
    servicer, target = server
    servicer.play(answer(maps(2)))
    with Client(target) as client, client.explain(MODEL, X) as stream:
        assert [item.index for item in stream] == [1, 0]
        assert list(stream) == []
        assert stream.summary is not None


def test_pictures_become_what_the_model_takes(driver: Any, server: Server, tmp_path: Path) -> None:
    servicer, target = server
    servicer.report.CopyFrom(explanation_pb2.InspectModelResponse(model_name=MODEL, model_version="1"))
    dims = [model_report_pb2.DeclaredDimension(symbol="N")]
    dims += [model_report_pb2.DeclaredDimension(size=n) for n in (3, 6, 8)]
    servicer.report.report.inputs.add(
        name="image", dtype="float", has_declared_shape=True, declared_shape=dims
    )
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sent = maps(2, 2)
    servicer.play(answer(sent))
    result = driver.explain(
        target, MODEL, [tmp_path / "a.png", Image.fromarray(pixels)], preprocess="unit", version="1"
    )
    inspected, request = servicer.requests
    assert inspected.model_version == request.model_version == "1"
    given = np.frombuffer(request.inputs["image"].data, "<f4").reshape(request.inputs["image"].shape)
    np.testing.assert_allclose(given, np.stack([pixels.transpose(2, 0, 1) / 255] * 2), atol=1e-6)
    assert [result.inputs.name(i) for i in range(2)] == ["a.png", "picture 1"]
    overlays = result.save_overlays(tmp_path / "overlays")
    assert [path.relative_to(tmp_path / "overlays").as_posix() for path in overlays] == [
        "000-a/000-t0.png",
        "000-a/001-t1.png",
        "001-picture_1/000-t0.png",
        "001-picture_1/001-t1.png",
    ]
    html = result.save_html(tmp_path / "report.html", labels=["cat", "dog", "emu"]).read_text("utf-8")
    assert "dog" in html
    assert MODEL in html
    with Image.open(result.save_gif(tmp_path / "flow.gif", picture=1)) as animation:
        assert animation.n_frames == 2
    result.save(tmp_path / "flows.npz")
    with np.load(tmp_path / "flows.npz") as saved:
        assert list(saved) == ["000:t0", "001:t1"]
        np.testing.assert_array_equal(saved["001:t1"], sent[1])
    with pytest.raises(PreprocessingError, match="without preprocessing"):
        driver.explain(target, MODEL, tmp_path / "a.png")


def test_tensors_can_be_drawn(server: Server, tmp_path: Path) -> None:
    servicer, target = server
    servicer.play(answer(maps(2)))
    with Client(target) as client:
        result = client.explain(MODEL, X).collect()
    assert "class 1" in result.save_html(tmp_path / "report.html").read_text("utf-8")
    assert len(result.save_overlays(tmp_path)) == 2


def test_progress_is_typed(server: Server) -> None:
    servicer, target = server
    alive = Event(
        progress=explanation_pb2.Progress(layers_done=1, layers_total=2, tensor="t", elapsed_seconds=3)
    )
    events = answer(maps(1))
    servicer.play([events[0], alive, *events[1:]])
    with Client(target) as client:
        assert next(iter(client.explain(MODEL, X).events())) == Progress(1, 2, "t", 3.0)
