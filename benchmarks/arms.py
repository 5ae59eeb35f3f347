"""The clients that the benchmarks compare, each as one way to fetch runs by their ids.

Nothing is measured here. ``worker.py`` opens an arm once and fetches as often as it is told to;
``harness.race`` compares arms. The official client's arms are in ``official.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Any

import aiohttp
from attrs import frozen

from modellab_async import ModelLabClient

RUNS = "/api/v2/model-lab-api/runs"
API_KEY, APP_KEY = "a" * 32, "b" * 40
HEADERS = {"DD-API-KEY": API_KEY, "DD-APPLICATION-KEY": APP_KEY}
PAGE = 100

Fetch = Callable[..., Awaitable[None]]
"""``fetch(ids)`` gets every run asked for, or fails; ``fetch(ids, kept)`` adds them to a list."""


@frozen
class Arm:
    """One client: its name in tables, and how to open it for a base URL and a concurrency."""

    name: str
    open: Callable[[str, int], AbstractAsyncContextManager[Fetch]]
    page: int = 1
    """Runs that one request asks for."""
    ours: bool = False
    """Whether it is this package, and so is measured again with the baseline's code."""
    apart: bool = False
    """Whether its import would weigh on the collections and the memory of the others."""


@asynccontextmanager
async def hand_loop(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The plain good way by hand: aiohttp, workers that share one iterator, dicts for models.

    A worker that meets a 429 sleeps until the period ends.
    """
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(run_id: int) -> dict[str, Any]:
            while True:
                async with session.get(f"{url}{RUNS}/{run_id}") as response:
                    if response.status != 429:
                        response.raise_for_status()
                        return json.loads(await response.read())
                    reset = int(response.headers["X-RateLimit-Reset"])
                await asyncio.sleep(reset)

        async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
            pending = iter(ids)

            async def work() -> None:
                for run_id in pending:
                    run = await get(run_id)
                    assert run["data"]["id"] == str(run_id)
                    if kept is not None:
                        kept.append(run)

            await asyncio.gather(*(work() for _ in range(concurrency)))

        yield fetch


@asynccontextmanager
async def hand_pages(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The same by hand with 100 ids a request, ten requests in flight at the most."""
    places = min(concurrency, 10)
    connector = aiohttp.TCPConnector(limit=places)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
            pending = iter(ids)

            async def work() -> None:
                while page := list(islice(pending, PAGE)):
                    query = {"filter[id]": ",".join(map(str, page)), "page[size]": str(PAGE)}
                    async with session.get(f"{url}{RUNS}", params=query) as response:
                        response.raise_for_status()
                        runs = json.loads(await response.read())["data"]
                    assert len(runs) == len(page)
                    if kept is not None:
                        kept.extend(runs)

            await asyncio.gather(*(work() for _ in range(places)))

        yield fetch


@asynccontextmanager
async def common_loop(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """What most would write: a task per run behind a semaphore, and ``response.json()``."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        places = asyncio.Semaphore(concurrency)

        async def get(run_id: int) -> dict[str, Any]:
            async with places, session.get(f"{url}{RUNS}/{run_id}") as response:
                response.raise_for_status()
                return await response.json()

        async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
            runs = await asyncio.gather(*(get(run_id) for run_id in ids))
            if kept is not None:
                kept.extend(runs)

        yield fetch


def ours(route: str) -> Callable[[str, int], AbstractAsyncContextManager[Fetch]]:
    """This package's ``runs.fetch`` by the route named."""

    @asynccontextmanager
    async def opened(url: str, concurrency: int) -> AsyncIterator[Fetch]:
        async with ModelLabClient(
            base_url=url, api_key=API_KEY, app_key=APP_KEY, max_concurrency=concurrency
        ) as lab:

            async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
                async with lab.runs.fetch(ids, route=route) as outcomes:
                    async for outcome in outcomes:
                        assert outcome.ok, outcome.error
                        if kept is not None:
                            kept.append(outcome.run)

            yield fetch

    return opened


def official(name: str) -> Callable[[str, int], AbstractAsyncContextManager[Fetch]]:
    """A client of ``official.py``, which is imported when an arm of it is opened."""

    def opened(url: str, concurrency: int) -> AbstractAsyncContextManager[Fetch]:
        import official as module  # noqa: PLC0415

        return getattr(module, name)(url, concurrency)

    return opened


HAND = Arm("hand-written loop", hand_loop)
CONTROL = Arm("the same again (control)", hand_loop)
COMMON = Arm("a loop as most write it", common_loop)
PAGES = Arm("hand-written loop, 100 ids a request", hand_pages, page=PAGE)
SINGLE = Arm("modellab_async, single", ours("single"), ours=True)
BATCH = Arm("modellab_async, batch", ours("batch"), page=PAGE, ours=True)
OFFICIAL = Arm("datadog-api-client[async]", official("official_async"), apart=True)
THREADS = Arm("datadog-api-client, threads", official("official_threads"), apart=True)

ARMS = {arm.name: arm for arm in (HAND, CONTROL, COMMON, PAGES, SINGLE, BATCH, OFFICIAL, THREADS)}
