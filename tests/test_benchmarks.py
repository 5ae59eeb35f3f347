"""The benchmarks' server answers what the API would."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

RUNS = "/api/v2/model-lab-api/runs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running benchmark server with small runs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    with importlib.import_module("server").running_server(size="1.1") as running:
        yield running


def ask(server: Any, target: str) -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, dict(response.headers), json.loads(response.read())
    finally:
        connection.close()


def test_run(server: Any) -> None:
    """A single run has the id that was asked for, the size chosen, and rate-limit headers."""
    status, headers, body = ask(server, f"{RUNS}/70158")
    assert (status, body["data"]["id"], body["data"]["type"]) == (200, "70158", "runs")
    assert 1_000 < int(headers["Content-Length"]) < 1_200
    assert headers["X-RateLimit-Remaining"] == "999999"


def test_page(server: Any) -> None:
    """A listing by percent-encoded ids has each of them once, and says how many there are."""
    _, _, body = ask(server, f"{RUNS}?filter%5Bid%5D=7%2C71354%2C7&page%5Bsize%5D=100")
    assert [run["id"] for run in body["data"]] == ["7", "71354"]
    assert body["meta"]["page"]["total"] == 2
    assert body["meta"]["page"]["next_number"] is None


def test_limit(server: Any) -> None:
    """Requests beyond the limit of a period are refused, and all are counted."""
    server.configure(limit=1, period=3600)
    statuses = [ask(server, f"{RUNS}/{run_id}")[0] for run_id in (1, 2, 3)]
    assert statuses == [200, 429, 429]
    assert (server.stats()["requests"], server.reset()["rate_limited"]) == (3, 2)
    assert server.stats()["requests"] == 0
