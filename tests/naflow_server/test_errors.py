"""Statuses: what they carry, and that they never grow past what metadata can hold."""

from __future__ import annotations

from urllib.parse import quote

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_server.engine.types import Code, EngineError, LayerFailure
from naflow_server.errors import CODES, DETAIL_BYTES, layer_status, status_of
from support.grpc_server import unpacked

TEXT = st.text(max_size=3000) | st.text("\u2603\U0001f600 a", min_size=500, max_size=6000)


@settings(max_examples=25, deadline=None)
@given(message=TEXT, hint=TEXT, field=TEXT, reason=TEXT, seconds=st.floats(0, 1e6))
def test_a_status_always_fits(message: str, hint: str, field: str, reason: str, seconds: float) -> None:
    error = EngineError(Code.NOT_FOUND, message, hint=hint, field=field, retry_after=seconds, reason=reason)
    status = status_of(error, "r" * 128)
    assert len(status.SerializeToString()) <= DETAIL_BYTES
    assert len(quote(status.message)) <= 1024
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert unpacked(status)["google.rpc.ErrorInfo"].metadata["request_id"] == "r" * 128


def test_every_code_of_the_engine_has_one_of_grpc() -> None:
    assert {code.name for code in CODES.values()} == {code.name for code in Code}


def test_short_texts_are_not_cut() -> None:
    error = EngineError(
        Code.INVALID_ARGUMENT, "inputs: wrong", hint="send more", field="inputs", reason="odd"
    )
    status = status_of(error, "r")
    found = unpacked(status)
    assert status.message == "inputs: wrong (send more)"
    assert found["google.rpc.ErrorInfo"].reason == "ODD"
    assert found["google.rpc.BadRequest"].field_violations[0].description == "inputs: wrong"
    assert "google.rpc.RetryInfo" not in found


def test_a_layers_failure() -> None:
    status = layer_status(LayerFailure(3, "t", Code.INVALID_ARGUMENT, "nan", "numerical"), "r")
    assert status.code == 3
    assert unpacked(status)["google.rpc.ErrorInfo"].reason == "NUMERICAL"
