"""The service under load: many clients at once, readers that stall, servers that are restarted.

    python benchmarks/service_load.py answers  [--clients 32] [--requests 500] [--batching 4]
    python benchmarks/service_load.py stalled  [--readers 64] [--seconds 60] [--clients 8]
    python benchmarks/service_load.py restarts [--restarts 20] [--servers 2] [--clients 8]

All take --json FILE, --model FILE (an ONNX network in place of the bundled one) and --cache FOLDER (compiled
programs, kept between runs). Servers are `naflow serve` processes on loopback, clients are the SDK's, and
every answer is compared with the same explanation computed in process, one at a time: bit for bit, with
batching to 1e-3 of the map's largest value. The exit status is 1 if an answer is wrong or lost; times and
memory are reported only. All times are in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service_models import DIGITS, pictures, relay, repository
from service_process import MIB, ServerProcess, report, spread

import naflow_core as nf
from naflow.v1 import explanation_pb2, explanation_pb2_grpc, method_pb2, tensor_pb2
from naflow_client import Client, ClientError, Result
from naflow_server.engine.compilation import use_cache
from naflow_server.sections import CompilationSettings

PICTURES = 8
BATCHED = 1e-3
WIDE = (40, 256)  # layers and side of the network of the stalled readers: 10 MB of maps
SERVICE = health_pb2.HealthCheckRequest(service="naflow.v1.ExplanationService")


@dataclass(frozen=True)
class Case:
    """One request, and its maps as computed in process, by tensor."""

    model: str
    x: np.ndarray
    target: int
    maps: dict[str, np.ndarray]


@dataclass
class Tally:
    """What became of requests. `slack` is the largest relative difference that is not wrong; `batch` the most
    pictures that were computed together."""

    slack: float = 0.0
    right: int = 0
    wrong: int = 0
    lost: int = 0
    batch: int = 0
    difference: float = 0.0
    seconds: list[float] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, client: Client, case: Case) -> None:
        """One request through the SDK."""
        began = time.perf_counter()
        try:
            options = {"layers": "spine", "target_class": case.target}
            result = client.explain(case.model, case.x, deadline=600, **options).collect()  # type: ignore[arg-type]
        except ClientError as error:
            with self.lock:
                self.lost += 1
                reason = f"{type(error).__name__}: {error}"
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
            return
        seconds, difference = time.perf_counter() - began, _difference(result, case)
        with self.lock:
            self.seconds.append(seconds)
            self.batch = max(self.batch, result.summary.batch_size)
            self.difference = max(self.difference, difference)
            if difference <= self.slack:
                self.right += 1
            else:
                self.wrong += 1

    def row(self, **first: Any) -> dict[str, Any]:
        """For the table."""
        counts = {"right": self.right, "wrong": self.wrong, "lost": self.lost}
        return {**first, **counts, "largest difference": f"{self.difference:.1e}", **spread(self.seconds)}


def _difference(result: Result, case: Case) -> float:
    """Largest difference of any map, relative to its largest value; infinite where a layer is missing."""
    if [flow.tensor for flow in result.flows] != list(case.maps):
        return float("inf")
    worst = 0.0
    for flow in result.flows:
        wanted = case.maps[flow.tensor]
        if flow.map.shape != wanted.shape:
            return float("inf")
        if flow.map.tobytes() != wanted.tobytes():
            gap = np.abs(flow.map - wanted).max() / max(np.abs(wanted).max(), np.finfo(np.float32).tiny)
            worst = max(worst, float(gap), np.finfo(np.float32).tiny)
    return worst


@dataclass(frozen=True)
class Bench:
    """A scratch folder with two models, what they answer, and how to start servers for them."""

    scratch: Path
    cache: Path
    models: Path
    shapes: dict[str, dict[str, list[int]]]
    cases: list[Case]

    def server(self, name: str = "server", **settings: object) -> ServerProcess:
        """A server process, not started; every model is warm when it serves."""
        warm = {model: {"warm_up": [s], "warm_up_layers": "spine"} for model, s in self.shapes.items()}
        own = {f"{key.replace('__', '.')}": value for key, value in settings.items()}
        fixed = {"compilation.cache": self.cache, "repository.models": json.dumps(warm)}
        return ServerProcess(self.models, self.scratch / f"{name}.log", {**fixed, **own})


@contextlib.contextmanager
def bench(options: argparse.Namespace, **extra: bytes) -> Iterator[Bench]:
    """Models in place, and every answer known."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        cache = options.cache or scratch / "cache"
        use_cache(CompilationSettings(cache=cache))
        networks = {"network": options.model, "relay": relay(12, 32)}
        models = repository(scratch / "models", **networks, **extra)
        cases, shapes = [], {}
        for seed, name in enumerate(networks):
            model = nf.load(models / name / "1" / "model.onnx")
            (spec,) = model.inputs
            sizes = [n if isinstance(n, int) else 224 for n in (spec.shape or ())[1:]]
            shapes[name] = {spec.name: [1, *sizes]}
            for number, x in enumerate(pictures(PICTURES, tuple(sizes), seed)):
                result = model.explain(x, nf.ClassTarget(number % 2), layers="spine").collect()
                cases.append(Case(name, x, number % 2, {f.tensor: f.map for f in result.flows}))
        ordered = [case for pair in zip(cases[:PICTURES], cases[PICTURES:], strict=True) for case in pair]
        yield Bench(scratch, cache, models, shapes, ordered)


@contextlib.contextmanager
def load(address: str, cases: list[Case], clients: int, tally: Tally) -> Iterator[threading.Event]:
    """Clients that ask without pause until the event is set or the block is left."""
    done, turns = threading.Event(), itertools.count()

    def work() -> None:
        with Client(address) as client:
            while not done.is_set():
                tally.ask(client, cases[next(turns) % len(cases)])

    with ThreadPoolExecutor(clients) as pool:
        working = [pool.submit(work) for _ in range(clients)]
        try:
            yield done
        finally:
            done.set()
        for one in working:
            one.result()


# answers


def answers(options: argparse.Namespace) -> bool:
    """Many clients on two models: zero wrong, zero lost."""
    rows, tallies = [], []
    with bench(options) as made:
        for batching in dict.fromkeys((1, options.batching)):
            tally = Tally(slack=0.0 if batching == 1 else BATCHED)
            with made.server(f"batching-{batching}", batching__pictures=batching) as server:
                seconds = asked(server.address, made.cases, options.requests, options.clients, tally)
            rows.append(tally.row(batching=batching, requests=options.requests))
            rows[-1] |= {"largest batch": tally.batch}
            rows[-1] |= {"per second": round(options.requests / seconds, 1)}
            tallies.append(tally)
    report("Many clients on two models", rows, options.json, clients=options.clients, lost=reasons(*tallies))
    complete = all(tally.right == options.requests for tally in tallies)
    return complete and not any(tally.wrong or tally.lost for tally in tallies)


def asked(address: str, cases: list[Case], requests: int, clients: int, tally: Tally) -> float:
    """So many requests from so many clients; the seconds that it took."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in itertools.islice(itertools.cycle(cases), requests):
        waiting.put(case)

    def work() -> None:
        with Client(address) as client, contextlib.suppress(queue.Empty):
            while True:
                tally.ask(client, waiting.get_nowait())

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(work) for _ in range(clients)]:
            one.result()
    return time.perf_counter() - began


# stalled


def stalled(options: argparse.Namespace) -> bool:
    """Readers that stop reading: what they hold, and what others notice."""
    layers, side = WIDE
    rows, tallies = [], []
    with bench(options, wide=relay(layers, side)) as made, contextlib.ExitStack() as stack:
        server = stack.enter_context(made.server())
        x = pictures(1, (1, side, side))[0]
        one = [case for case in made.cases if case.model == "network"]
        with Client(server.address) as client:
            client.explain("wide", x, layers="spine", deadline=600).collect()

        def phase(name: str, clients: int, seconds: float) -> None:
            tally = Tally()
            probe = _probing(server.address, seconds)
            with load(server.address, one if clients == 1 else made.cases, clients, tally):
                health, _ = probe.communicate(timeout=seconds + 120)
            found = {f"health {key}": value for key, value in json.loads(health).items()}
            now = server.metrics()
            memory = round(now["process_resident_memory_bytes"] / MIB, 1)
            waiting = int(now["naflow_explanations_stalled"])
            rows.append(tally.row(phase=name, stalled=waiting, clients=clients) | found | {"MiB": memory})
            tallies.append(tally)

        phase("before", 1, min(20.0, options.seconds))
        before = server.resident()
        with contextlib.ExitStack() as readers:
            for _ in range(options.readers):
                readers.enter_context(_stalled_reader(server.address, x))
            _until(lambda: server.metrics()["naflow_explanations_stalled"] >= options.readers, 120)
            phase("stalled", 1, options.seconds)
            most = max(before, server.resident())
            phase("stalled, full load", options.clients, min(20.0, options.seconds))
            most = max(most, server.resident())
        _until(lambda: server.metrics()["naflow_open_calls"] == 0, 30)
        phase("after", 1, min(10.0, options.seconds))
    report(
        "Readers that stall",
        rows,
        options.json,
        readers=options.readers,
        seconds=options.seconds,
        mib_each=round((most - before) / MIB / options.readers, 2),
        latency_ratio=round(rows[1]["p50"] / rows[0]["p50"], 2),
        lost=reasons(*tallies),
    )
    return not any(tally.wrong or tally.lost for tally in tallies)


@contextlib.contextmanager
def _stalled_reader(address: str, x: np.ndarray) -> Iterator[None]:
    """A call on a connection of its own, of which the first event is read and nothing more."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 * MIB)]
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=x.shape, data=x.tobytes())
    request = explanation_pb2.ExplainRequest(
        model_name="wide", inputs={"": tensor}, layers=method_pb2.Layers(set=method_pb2.LAYER_SET_SPINE)
    )
    with grpc.insecure_channel(address, options) as channel:
        call = explanation_pb2_grpc.ExplanationServiceStub(channel).Explain(request)
        next(call)
        yield
        call.cancel()


def _probing(address: str, seconds: float) -> subprocess.Popen[str]:
    """A process that asks for health, so that this one's threads do not slow it down."""
    command = [sys.executable, __file__, "probe", "--address", address, "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def probe(options: argparse.Namespace) -> bool:
    """Health checks fifty times a second; prints their latencies as JSON."""
    times = []
    end = time.monotonic() + options.seconds
    with grpc.insecure_channel(options.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(SERVICE, wait_for_ready=True)
        while time.monotonic() < end:
            began = time.perf_counter()
            answer = check(SERVICE)
            times.append(time.perf_counter() - began)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                return False
            time.sleep(0.02)
    print(json.dumps(spread(times)))
    return True


# restarts


def restarts(options: argparse.Namespace) -> bool:
    """Servers are restarted in turn while clients ask: no request is lost."""
    tally, statuses = Tally(), []
    with bench(options) as made, contextlib.ExitStack() as stack:
        servers = [made.server(f"server-{n}", server__drain_seconds=0.5) for n in range(options.servers)]
        for server in servers:
            stack.enter_context(server)
            server.settings["server.port"] = server.port  # the same again after each restart
        address = "ipv4:" + ",".join(server.address for server in servers)
        began = time.perf_counter()
        with load(address, made.cases, options.clients, tally):
            time.sleep(1.0)
            for number in range(options.restarts):
                server = servers[number % len(servers)]
                statuses.append(server.stop())
                server.start()
            time.sleep(1.0)
        seconds = time.perf_counter() - began
    row = tally.row(servers=options.servers, restarts=options.restarts)
    row |= {"exit status": max(statuses, key=abs), "per second": round(len(tally.seconds) / seconds, 1)}
    report("Restarts under load", [row], options.json, clients=options.clients, lost=reasons(tally))
    return not (tally.wrong or tally.lost or any(statuses)) and tally.right > 0


def reasons(*tallies: Tally) -> str:
    found = {reason: n for tally in tallies for reason, n in tally.reasons.items()}
    return "; ".join(f"{n} x {reason}" for reason, n in found.items()) or "none"


def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="answers|stalled|restarts")
    subjects: dict[str, Callable[[argparse.Namespace], bool]] = {
        "answers": answers,
        "stalled": stalled,
        "restarts": restarts,
    }
    for name, clients in (("answers", 32), ("stalled", 8), ("restarts", 8)):
        command = commands.add_parser(name, help=subjects[name].__doc__)
        command.add_argument("--clients", type=int, default=clients)
        command.add_argument("--model", type=Path, default=DIGITS)
        command.add_argument("--cache", type=Path)
        command.add_argument("--json", type=Path)
    commands.choices["answers"].add_argument("--requests", type=int, default=500)
    commands.choices["answers"].add_argument("--batching", type=int, default=4)
    commands.choices["stalled"].add_argument("--readers", type=int, default=64)
    commands.choices["stalled"].add_argument("--seconds", type=float, default=60.0)
    commands.choices["restarts"].add_argument("--restarts", type=int, default=20)
    commands.choices["restarts"].add_argument("--servers", type=int, default=2)
    probing = commands.add_parser("probe")
    probing.add_argument("--address", required=True)
    probing.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args(arguments)
    return 0 if (subjects | {"probe": probe})[options.command](options) else 1


if __name__ == "__main__":
    sys.exit(main())
