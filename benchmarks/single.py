"""CPU and wall time per run: this client's single route, a hand-written loop, the official client.

``python -m benchmarks.single --size 1.1 8.9 --concurrency 32`` measures them interleaved in one
process against one local server, in well under a minute.
"""

from __future__ import annotations

import argparse

import harness
import official
from arms import CONTROL, HAND, SINGLE
from payload import SHAPES
from server import running_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", nargs="+", choices=SHAPES, default=["1.1", "8.9"], help="KB a run"
    )
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight")
    parser.add_argument("--latency-ms", type=float, default=0, help="added by the server")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--uvloop", action="store_true", help="run all clients on uvloop")
    chosen = parser.parse_args()

    arms = [HAND, CONTROL, SINGLE, official.ASYNC]
    with running_server(latency_ms=chosen.latency_ms) as server:
        for size in chosen.size:
            server.configure(size=size)
            results = harness.run(
                harness.interleave(
                    server.url, arms, concurrency=chosen.concurrency, rounds=chosen.rounds
                ),
                use_uvloop=chosen.uvloop,
            )
            rows = [harness.result_row(result) for result in results]
            print(f"\nruns of {size} KB, {chosen.concurrency} in flight, {chosen.rounds} rounds")
            print(harness.table(harness.RESULT_HEAD, rows), flush=True)
    print("\ngain: how many times better than the hand-written loop of the same round")


if __name__ == "__main__":
    main()
