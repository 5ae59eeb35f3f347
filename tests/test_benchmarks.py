"""The server of the benchmarks answers as the API would, and their arms and ratios are right."""

from __future__ import annotations

import importlib
import json
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from conftest import PATIENCE

from modellab_async import Run, from_json

ROOT = Path(__file__).parent.parent
RUNS = "/api/v2/model-lab-api/runs"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmarks that are tested."""
    pytest.importorskip("resource", reason="memory is measured as POSIX does")
    monkeypatch.syspath_prepend(str(ROOT))
    names = ("arms", "figures", "harness", "payload", "server", "worker")
    return SimpleNamespace(
        **{name: importlib.import_module(f"benchmarks.{name}") for name in names}
    )


@pytest.fixture
def server(benchmarks: SimpleNamespace) -> Iterator[Any]:
    """A running benchmark server with small runs."""
    with benchmarks.server.running_server(size="1.1") as running:
        yield running


def ask(server: Any, target: str) -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, dict(response.headers), json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("size", ["1.1", "2.2", "8.9"])
def test_runs_are_as_large_as_they_say(benchmarks: SimpleNamespace, size: str) -> None:
    """A run has the size of its name, decodes, and metrics are about half of a large one."""
    text = benchmarks.payload.Catalogue(size).run(b"123456")
    run = from_json(text, Run)
    assert run.id == 123456
    assert len(text) == pytest.approx(float(size) * 1000, rel=0.03)
    metrics = json.dumps(json.loads(text)["attributes"]["metric_summaries"], separators=(",", ":"))
    assert size == "1.1" or 0.4 < len(metrics) / len(text) < 0.55


@pytest.mark.parametrize("differing", [100, 74, 0])
def test_a_share_of_params_differs(benchmarks: SimpleNamespace, differing: int) -> None:
    """That share of a run's params, and no other, has values that no other run has."""
    catalogue = benchmarks.payload.Catalogue("8.9", differing)
    one, other = (from_json(catalogue.run(run_id), Run) for run_id in (b"123456", b"123457"))
    same = sum(a == b for a, b in zip(one.params, other.params, strict=True))
    assert 100 * (1 - same / len(one.params)) == pytest.approx(differing, abs=1.5)
    assert one.metric_summaries != other.metric_summaries


@pytest.mark.process
def test_run(server: Any) -> None:
    """A single run has the requested id, and the response has rate-limit headers."""
    status, headers, body = ask(server, f"{RUNS}/70158")
    assert (status, body["data"]["id"], body["data"]["type"]) == (200, "70158", "runs")
    assert headers["X-RateLimit-Remaining"] == "999999"


@pytest.mark.process
def test_page(server: Any) -> None:
    """A listing by percent-encoded ids has each of them once, and their total."""
    _, _, body = ask(server, f"{RUNS}?filter%5Bid%5D=7%2C71354%2C7&page%5Bsize%5D=100")
    assert [run["id"] for run in body["data"]] == ["7", "71354"]
    assert body["meta"]["page"]["total"] == 2
    assert body["meta"]["page"]["next_number"] is None


@pytest.mark.process
def test_limit(server: Any) -> None:
    """Requests beyond the limit of a period are refused, and all are counted."""
    server.configure(limit=1, period=3600)
    statuses = [ask(server, f"{RUNS}/{run_id}")[0] for run_id in (1, 2, 3)]
    assert statuses == [200, 429, 429]
    assert server.stats() == {"requests": 3, "refused": 2}
    server.configure()
    assert server.stats() == {"requests": 0, "refused": 0}


@pytest.mark.process
async def test_tls_and_gzip(benchmarks: SimpleNamespace) -> None:
    """Over TLS by its own authority, a compressed run equals an uncompressed one."""
    with benchmarks.server.running_server(size="1.1", tls=True, gzip=True) as server:
        context = ssl.create_default_context(cafile=server.environment["SSL_CERT_FILE"])
        runs = []
        async with aiohttp.ClientSession() as session:
            for coding in ("gzip", "identity"):
                headers = {"Accept-Encoding": coding}
                url = f"{server.url}{RUNS}/70158"
                async with session.get(url, headers=headers, ssl=context) as response:
                    assert response.headers.get("Content-Encoding", "identity") == coding
                    runs.append(await response.json())
    assert runs[0] == runs[1]
    assert runs[0]["data"]["id"] == "70158"


@pytest.mark.process
def test_arms_fetch(benchmarks: SimpleNamespace, server: Any) -> None:
    """Each arm asks for the runs that it is told to fetch, as many per request as it says."""
    arms = benchmarks.arms
    with benchmarks.worker.running_worker(server) as worker:
        for arm in (arms.LOOP, arms.DICTS, arms.MODELS, arms.SINGLE, arms.BATCH):
            server.configure()
            assert worker.fetch(arm, 200, keep=True).cpu > 0
            assert server.stats() == {"requests": 200 / arm.page, "refused": 0}


def test_the_loop_of_models_builds_what_the_client_builds(benchmarks: SimpleNamespace) -> None:
    """The yardstick's outcomes hold the runs that this package decodes."""
    text = benchmarks.payload.Catalogue("2.2").run(b"70158")
    [outcome] = benchmarks.arms.read_models(b'{"data":[%b]}' % text)
    assert outcome.run_id == 70158
    assert outcome.unwrap() == from_json(text, Run)


def test_gains_compare_turns_of_the_same_round(benchmarks: SimpleNamespace) -> None:
    """A round in which the machine is slow does not change the ratio of two arms."""
    samples = {"slow": [(9, 2.0), (9, 20.0), (9, 4.0)], "fast": [(9, 1.0), (9, 10.0), (9, 2.0)]}
    assert benchmarks.harness.gain(samples, "fast", "slow") == 2.0


@pytest.mark.parametrize(
    ("measured", "at_least", "verdict"),
    [
        (1.3, True, "aim"),
        (1.2, True, "must"),
        (1.1, True, "**missed**"),
        (1.2, False, "must"),
        (1.4, False, "**missed**"),
    ],
)
def test_a_missed_promise_is_named(
    benchmarks: SimpleNamespace, measured: float, at_least: bool, verdict: str
) -> None:
    """A figure outside its bound is called missed, whether more or less is better."""
    must, aim = (1.2, 1.3) if at_least else (1.3, 1.1)
    figure = benchmarks.figures.Figure("row", "what", measured, must, aim, "x", at_least)
    assert figure.verdict == verdict
    assert figure.holds is (verdict != "**missed**")
