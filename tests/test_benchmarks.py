"""The benchmarks' server answers what the API would, and their workers run the code they should."""

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

import modellab_async

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
RUNS = "/api/v2/model-lab-api/runs"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmarks that are tested, which import each other by bare names."""
    pytest.importorskip("resource", reason="memory is measured as POSIX does")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("arms", "sections", "server", "worker")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


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


async def test_tls_and_gzip(benchmarks: SimpleNamespace) -> None:
    """Over TLS by its own authority, a compressed run is the one that is sent uncompressed."""
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


@pytest.mark.parametrize("name", ["HAND", "COMMON", "PAGES", "SINGLE", "BATCH"])
def test_a_worker_fetches(benchmarks: SimpleNamespace, server: Any, name: str) -> None:
    """Each arm asks for the runs that it is told to fetch, as many to a request as it says."""
    arm = getattr(benchmarks.arms, name)
    with benchmarks.worker.running_worker(server) as worker:
        sample = worker.measure(arm, 200)
        assert server.reset()["requests"] == 200 / arm.page
        report = worker.weigh(arm, 400, keep=True)
    assert server.stats()["requests"] == 400 / arm.page
    assert sample.wall > 0
    assert report.seconds > 0


def test_a_checkout_says_its_version(benchmarks: SimpleNamespace) -> None:
    """The version of a checkout comes from its own package, and names its arms."""
    checkout = benchmarks.sections.Checkout.at(ROOT)
    assert checkout.version == modellab_async.__version__
    assert checkout.name("modellab_async, batch") == f"modellab_async {checkout.version}, batch"


def test_a_directory_without_the_package_is_no_checkout(
    benchmarks: SimpleNamespace, tmp_path: Path
) -> None:
    """A baseline that would silently measure the installed package is refused."""
    with pytest.raises(ValueError, match="no checkout of the package"):
        benchmarks.sections.Checkout.at(tmp_path)
