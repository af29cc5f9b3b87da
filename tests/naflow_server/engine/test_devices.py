"""One compute thread for each device. JAX fixes its devices at the start, so this runs in a process of its
own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.engines import repository

PROGRAM = """
import asyncio, sys, threading
from pathlib import Path
import jax, numpy as np
import naflow_core as nf
from naflow_server.engine import Engine, ExplainRequest, LayerFlow
from naflow_server.settings import Settings

async def maps(engine, x):
    events = [e async for e in engine.explain(ExplainRequest("residual-1", {"x": x}, layers=("r0",)))]
    return next(e.flow.map for e in events if isinstance(e, LayerFlow))

async def main(root):
    assert len(jax.local_devices()) == 2
    shapes = [{"x": [1, 3, 5, 5]}]
    models = {"residual-1": {"warm_up": shapes, "warm_up_layers": ["r0"]}}
    engine = Engine(Settings(repository={"path": root, "models": models}))
    await engine.start()
    await engine.loaded()
    names = {t.name for t in threading.enumerate()}
    assert {"naflow-compute-0", "naflow-compute-1"} <= names, names
    before = engine.statistics().programs
    xs = [np.random.default_rng(i).normal(size=(1, 3, 5, 5)).astype(np.float32) for i in range(12)]
    got = await asyncio.gather(*(maps(engine, x) for x in xs))
    assert engine.statistics().programs == before, "both devices were warmed up"
    model = nf.load(root / "residual-1" / "1" / "model.onnx")
    for x, map_ in zip(xs, got):
        (flow,) = model.explain(x, layers=("r0",))
        np.testing.assert_allclose(map_, flow.map, atol=1e-6)
    await engine.stop()
    print("ok")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_two_devices_share_the_requests(tmp_path: Path) -> None:
    repository(tmp_path, "residual-1")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"it hangs: {error.stderr}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
