"""The figures of speed and memory that the project promises, each with its must and its aim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from benchmarks.arms import BATCH, DICTS, LOOP, MODELS, OFFICIAL, SINGLE, Arm
from benchmarks.figures import Figure
from benchmarks.harness import gain

Bounds = Mapping[str, tuple[float, float]]

SPEEDS: Mapping[tuple[Arm, Arm], Bounds] = {
    (BATCH, MODELS): {"2.2": (0.95, 1.05), "8.9": (1.2, 1.3), "1.1": (0.9, 1.0)},
    (BATCH, DICTS): {"2.2": (0.85, 0.95), "8.9": (1.35, 1.5), "1.1": (0.57, 0.65)},
    (SINGLE, LOOP): {"8.9": (0.85, 0.95), "1.1": (0.9, 0.97)},
    (SINGLE, OFFICIAL): {"8.9": (12, 16), "1.1": (4.5, 5)},
    (BATCH, OFFICIAL): {"8.9": (50, 60), "1.1": (50, 60)},
}
"""How many times less CPU time than another arm, by the size of a run."""

REFUSED = {"2": 2, "4": 2, "8": 4}
"""Percent of requests refused, by the number of processes that share a quota."""


def promises(results: Mapping[str, Any]) -> Iterator[Figure]:
    """Each promise whose section was measured."""
    sections = {"speed": _speed, "kept": _kept, "stream": _stream, "hold": _hold, "quota": _quota}
    for name, figures in sections.items():
        if name in results:
            yield from figures(results[name])


def _speed(races: Any) -> Iterator[Figure]:
    for (arm, other), bounds in SPEEDS.items():
        for size, (must, aim) in bounds.items():
            measured = gain(races[size]["100"], arm.name, other.name)
            yield Figure(
                f"{arm.name}, against {other.name}", f"{size} KB", measured, must, aim, "x", True
            )


def _kept(kept: Any) -> Iterator[Figure]:
    row = f"{kept['runs']:,} runs of 8.9 KB kept"
    peak = median(peak for _, peak, _ in kept["samples"][BATCH.name])
    yield Figure(row, "peak of memory over the idle client", peak, 350, 280, "MB")
    models, batch = (kept["samples"][f"{arm.name}, speed.run"] for arm in (MODELS, BATCH))
    ratio = median(theirs / ours for (ours, *_), (theirs, *_) in zip(batch, models, strict=True))
    what = f"under speed.run, against {MODELS.name}"
    yield Figure(row, what, ratio, 1.1, 1.3, "x", True)


def _stream(stream: Any) -> Iterator[Figure]:
    row = f"{stream['runs']:,} runs of 1.1 KB streamed"
    yield Figure(row, "peak of memory over the idle client", stream["peak"], 30, 10, "MB")


def _hold(longest: Any) -> Iterator[Figure]:
    row = "pages of 100 runs of 8.9 KB"
    yield Figure(row, "longest that one holds the event loop", median(longest), 10, None, "ms")


def _quota(quota: Any) -> Iterator[Figure]:
    rate = f"{quota['limit']} requests per {quota['period']} s"
    least = "time against the least possible"
    all_runs = quota["all"]
    row = f"{all_runs['runs']:,} runs, {rate}"
    yield Figure(row, least, all_runs["time"], 1.02, None, "x")
    yield Figure(row, "requests refused", all_runs["refused"], 0, None, "%")
    for count, shared in quota["processes"].items():
        row = f"{count} processes, {rate}"
        yield Figure(row, least, shared["time"], 1.05, None, "x")
        yield Figure(row, "requests refused", shared["refused"], REFUSED[count], None, "%")
    row = f"a neighbor that needs a quarter of {rate}"
    yield Figure(row, "its requests refused", quota["neighbor"]["its_refused"], None, None, "%")
    yield Figure(row, "this client's refused", quota["neighbor"]["refused"], None, None, "%")
