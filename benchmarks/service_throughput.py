"""Throughput and latency of the service against the number of clients, with batching and without.

    python benchmarks/service_throughput.py [--clients 1 2 4 8 16 32] [--requests 200] [--batching 4]
                                            [--model FILE] [--cache FOLDER] [--json FILE]

One `naflow serve` process on loopback for each way of batching, every program compiled before the first
request. For each number of clients, so many threads ask for all spine layers of the model's pictures, one
request after the other without pause; every answer is compared with the same explanation computed in process
(with batching to 1e-3 of the map's largest value), and the exit status is 1 if one is wrong or lost. Columns:
requests a second, that over one client without batching, the largest batch that was computed together, and
percentiles of the latency in milliseconds, which for many clients is mostly waiting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from service_load import BATCHED, Tally, asked, bench, reasons
from service_models import DIGITS
from service_process import report


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--requests", type=int, default=200, help="for each number of clients")
    parser.add_argument("--batching", type=int, default=4, help="pictures in a batch, at most")
    parser.add_argument("--model", type=Path, default=DIGITS)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    tallies: list[Tally] = []
    with bench(options) as made:
        cases = [case for case in made.cases if case.model == "network"]
        for batching in dict.fromkeys((1, options.batching)):
            slack = 0.0 if batching == 1 else BATCHED
            with made.server(f"batching-{batching}", batching__pictures=batching) as server:
                asked(server.address, cases, 2 * len(cases), max(options.clients), Tally(slack))  # warms up
                for clients in options.clients:
                    tally = Tally(slack)
                    seconds = asked(server.address, cases, options.requests, clients, tally)
                    rows.append(tally.row(batching=batching, clients=clients))
                    rows[-1] |= {"largest batch": tally.batch, "per second": options.requests / seconds}
                    rows[-1] |= {"x one client": rows[-1]["per second"] / rows[0]["per second"]}
                    tallies.append(tally)
    report("Throughput of the service", rows, options.json, requests=options.requests, lost=reasons(*tallies))
    return 0 if all(tally.right == options.requests for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
