"""A real server process whose layers take time once it serves: `python -m support.slow_server SECONDS_EACH`.

Its settings come from the environment. After its end it writes what is left of it, as one JSON object:
`tasks` by name, `threads` that do not end, `gauges` that are not zero, the number of `steps`, and in
`time.monotonic()` seconds when the `last_step` began and when it had `stopped`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

from naflow_core import cascade
from naflow_server import app
from naflow_server.settings import read_settings

GAUGES = ("naflow_open_calls", "naflow_explanations_in_progress", "naflow_explanations_active")
LEFT: dict[str, Any] = {"steps": 0, "last_step": 0.0}
SERVING = threading.Event()
PATIENCE = 5.0  # seconds: threads that were told to end are not waited for by the server


class Watched(app.Server):
    """Looks around when it has stopped."""

    async def start(self) -> None:
        """As the server's."""
        await super().start()
        SERVING.set()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """As the server's."""
        await super().stop(hurry)
        own = asyncio.current_task()
        LEFT["tasks"] = [repr(task) for task in asyncio.all_tasks() if task is not own]
        values = {name: self.metrics.registry.get_sample_value(name) for name in GAUGES}
        LEFT["gauges"] = {name: value for name, value in values.items() if value != 0}
        LEFT["stopped"] = time.monotonic()


def threads() -> list[str]:
    """Names of the threads that run beside the main one; gRPC's own stays."""
    known = ("MainThread", "_poll_wrapper")
    return [t.name for t in threading.enumerate() if not any(name in t.name for name in known)]


def main() -> int:
    """The server's exit status."""
    seconds, real = float(sys.argv[1]), cascade.step

    def step(*arguments: Any) -> Any:
        if SERVING.is_set():
            LEFT["steps"] += 1
            LEFT["last_step"] = time.monotonic()
            time.sleep(seconds)
        return real(*arguments)

    cascade.step = step
    app.Server = Watched  # type: ignore[misc]
    status = app.main(read_settings())
    end = time.monotonic() + PATIENCE
    while (left := threads()) and time.monotonic() < end:
        time.sleep(0.01)
    LEFT["threads"] = left
    sys.stdout.write(json.dumps(LEFT))
    return status


if __name__ == "__main__":
    sys.exit(main())
