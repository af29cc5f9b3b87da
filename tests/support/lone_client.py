"""A client process that can be killed: `python -m support.lone_client ADDRESS RPC EVENTS`.

It opens a call, reads so many events, says "reading", and then reads on or, with 1 event, nothing more.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import grpc
import numpy as np

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import explanation_pb2_grpc, method_pb2, tensor_pb2

SIDE = 256  # few maps of 256 KiB fill every buffer on the way to a stalled reader


def request() -> ex.ExplainRequest:
    """For the model of the failure tests."""
    x = np.random.default_rng(0).random((1, 1, SIDE, SIDE), np.float32)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=x.shape, data=x.tobytes())
    layers = method_pb2.Layers(set=method_pb2.LAYER_SET_SPINE)
    return ex.ExplainRequest(model_name="relay", inputs={"": tensor}, layers=layers, request_id="r")


def asked(rpc: str, hold: threading.Event) -> ex.ExplainRequest | Iterator[ex.ExplainRequest]:
    """The argument of an RPC: one request, or a stream of one that stays open until `hold` is set."""

    def requests() -> Iterator[ex.ExplainRequest]:
        yield request()
        hold.wait(60)

    return request() if rpc == "Explain" else requests()


def main() -> None:
    """Until it is killed."""
    address, rpc, events = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        call = getattr(stub, rpc)(asked(rpc, threading.Event()))
        for _ in range(int(events)):
            next(call)
        sys.stdout.write("reading\n")
        sys.stdout.flush()
        if int(events) > 1:
            for _ in call:
                pass
        threading.Event().wait(60)


if __name__ == "__main__":
    main()
