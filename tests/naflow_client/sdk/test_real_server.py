"""The SDK and the Node example against the real server, TLS and token on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_client import (
    NO_RETRIES,
    AccessError,
    CallCancelledError,
    Client,
    ClientError,
    ModelState,
    NotFoundError,
    RequestError,
    Tls,
    UnavailableError,
)
from support.blocks import network, picture
from support.explanation_server import Scripted, answer, maps, serving
from support.secure_server import Secure, secure_server

NODE = Path(__file__).resolve().parents[3] / "clients" / "node"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    models = {"residual": network("residual"), "dense": network("residual", seed=1)}
    with secure_server(
        tmp_path_factory.mktemp("server"), models, repository={"upload": {"enabled": True}}
    ) as server:
        yield server


@pytest.mark.parametrize("layers", ["blocks", "nodes"])
def test_the_same_bits_as_in_process(driver: Any, secure: Secure, layers: str) -> None:
    x = picture(seed=3, count=2)
    expected = nf.load(network("residual")).explain(x, layers=layers).collect()
    result = driver.explain(secure.address, "residual", x, layers=layers, client=secure.access)
    assert [flow.key for flow in result.flows] == [flow.key for flow in expected.flows]
    for got, wanted in zip(result.flows, expected.flows, strict=True):
        assert got.map.tobytes() == wanted.map.tobytes()
        for i in range(2):
            ours, theirs = got.diagnostics.to_dict(i), wanted.diagnostics.to_dict(i)
            assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert result.header.method == nf.Method().to_dict()
    for i, prediction in enumerate(result.header.predictions):
        rows = [(row.index, row.score) for row in prediction.best]
        assert rows == expected.prediction.best(i)
        assert prediction.target_score == expected.prediction.target_score[i]
    assert result.summary.layers == len(expected.flows)


def test_options_reach_the_method(driver: Any, secure: Secure) -> None:
    x = picture(seed=4)
    method = nf.Method.preset("paper", inverse="activation", abandon=nf.Abandonment.parse("mass:0.8"))
    expected = nf.load(network("residual")).explain(x, nf.ClassTarget(1), method=method).collect()
    result = driver.explain(
        secure.address,
        "residual",
        x,
        target_class="b",
        labels=["a", "b", "c", "d", "e", "f", "g", "h"][: expected.prediction.scores.shape[1]],
        preset="paper",
        inverse="activation",
        abandon="mass:0.8",
        client=secure.access,
    )
    assert result.header.prediction.target.index == 1
    assert result.header.method == method.to_dict()
    for got, wanted in zip(result.flows, expected.flows, strict=True):
        assert got.map.tobytes() == wanted.map.tobytes()


def test_errors_keep_the_servers_reason(driver: Any, secure: Secure) -> None:
    x = picture()
    with pytest.raises(NotFoundError, match="nothing") as missing:
        driver.explain(secure.address, "nothing", x, client=secure.access)
    assert missing.value.status == "NOT_FOUND"
    assert missing.value.reason
    assert missing.value.metadata["request_id"]
    with pytest.raises(RequestError) as wrong:
        driver.explain(secure.address, "residual", x[:, :, :3], client=secure.access)
    assert wrong.value.field.startswith("inputs")
    with pytest.raises(RequestError) as target:
        driver.explain(secure.address, "residual", x, target_class=5000, client=secure.access)
    assert "5000" in target.value.message
    assert target.value.reason == "TARGET_INVALID"


def test_access(driver: Any, secure: Secure) -> None:
    tls = secure.access["tls"]
    for wrong in ({}, {"token": "another"}):
        with pytest.raises(AccessError):
            driver.call(secure.address, "list_models", client={"tls": tls, **wrong})
        with pytest.raises(AccessError):
            driver.explain(secure.address, "residual", picture(), client={"tls": tls, **wrong})
    with pytest.raises(UnavailableError):
        driver.call(secure.address, "list_models", client={"tls": Tls(), "retry": NO_RETRIES})


def test_repository(driver: Any, secure: Secure) -> None:
    listed = {item.model: item for item in driver.call(secure.address, "list_models", client=secure.access)}
    assert {"residual", "dense"} <= set(listed)
    assert listed["residual"].versions[0].state is ModelState.READY
    assert not driver.call(secure.address, "unload_model", "dense", client=secure.access).ready
    assert driver.call(secure.address, "load_model", "dense", client=secure.access).ready
    content = network("residual", seed=5).SerializeToString()
    name = f"uploaded-{driver.kind}"
    status = driver.call(secure.address, "upload_model", name, "1", content, client=secure.access)
    assert status.model == name
    assert driver.call(secure.address, "load_model", name, client=secure.access).ready
    report = driver.call(secure.address, "inspect", name, client=secure.access)
    expected = nf.load(content).inspect().to_dict()
    assert report.explainable
    assert report.sha256 == expected["model"]["sha256"]
    assert list(report.blocks) == expected["blocks"]
    assert [s.rule for s in report.segments] == [s["rule"] for s in expected["segments"]]
    assert [s.rule_class for s in report.segments] == [s["class"] for s in expected["segments"]]


def test_loading_by_force(driver: Any) -> None:
    servicer = Scripted()
    with serving(servicer) as address:
        for options in ({}, {"force": True}):
            driver.call(address, "load_model", "any", **options)
    assert [request.force for request in servicer.requests] == [False, True]


def test_leaving_early_frees_the_server(secure: Secure) -> None:
    with Client(secure.address, **secure.access) as client:
        stream = client.explain("residual", picture(seed=6), layers="nodes")
        for _ in stream:
            break
        with pytest.raises(CallCancelledError):
            stream.collect()
        assert client.explain("residual", picture(seed=6), layers="nodes").collect().flows


def node(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules" / "@grpc" / "grpc-js").is_dir():
        pytest.skip("the example's packages are not installed (npm install in clients/node)")
    command = [program, str(NODE / "explain.js"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_node_prints_the_flows(secure: Secure, tmp_path: Path) -> None:
    x = picture(seed=3)
    np.save(tmp_path / "x.npy", x)
    access = ("--ca", secure.ca, "--token-file", secure.token_file)
    done = node(
        secure.address, "residual", tmp_path / "x.npy", "--layers", "spine", "--target-class", 1, *access
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Client(secure.address, **secure.access) as client:
        result = client.explain("residual", x, layers="spine", target_class=1).collect()
    first, head, *rows = lines(done.stdout)
    assert first[0].startswith("class 1, logit ")
    assert head == ["index", "tensor", "shape", "min", "max", "mean"]
    assert len(rows) == len(result.flows)
    for row, flow in zip(rows, reversed(result.flows), strict=True):
        assert row[:3] == [str(flow.index), flow.tensor, "x".join(map(str, flow.map.shape))]
        expected = [flow.map.min(), flow.map.max(), flow.map.mean(dtype=np.float64)]
        np.testing.assert_allclose([float(value) for value in row[3:]], expected, rtol=1e-4, atol=1e-12)


def test_node_says_what_is_wrong(secure: Secure, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", picture())
    np.save(tmp_path / "complex.npy", picture().astype(np.complex64))
    access = ("--ca", secure.ca, "--token-file", secure.token_file)
    for arguments, said in [
        ((secure.address, "nothing", tmp_path / "x.npy", *access), "no model 'nothing'"),
        ((secure.address, "residual", tmp_path / "x.npy", "--ca", secure.ca), "token"),
        (
            (secure.address, "residual", tmp_path / "complex.npy", *access),
            "complex.npy: holds numbers of type",
        ),
        ((secure.address, "residual", secure.ca, *access), "not a .npy file"),
        ((secure.address,), "usage"),
    ]:
        done = node(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


@pytest.mark.parametrize("kind", ["chunks", "damaged", "cut"])
def test_node_checks_what_it_reads(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 2, 2), np.float32))
    sent, servicer = maps(2), Scripted()
    events = answer(sent, 16)
    if kind == "damaged":
        events[2].chunk.data = b"\0" * 16
    elif kind == "cut":
        del events[-1]
    servicer.play(events)
    with serving(servicer) as target:
        done = node(target, "any", tmp_path / "x.npy")
    if kind == "chunks":
        means = [float(row[5]) for row in lines(done.stdout)[2:]]
        np.testing.assert_allclose(means, [m.mean() for m in reversed(sent)], rtol=1e-5)
    else:
        assert done.returncode == 1
        assert ("damaged" if kind == "damaged" else "without a summary") in done.stderr


def test_a_client_error_is_one_line(secure: Secure) -> None:
    with Client(secure.address, **secure.access) as client, pytest.raises(ClientError) as caught:
        client.explain("nothing", picture()).collect()
    assert "\n" not in str(caught.value)
