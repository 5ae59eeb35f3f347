"""The clients that the benchmarks compare, each as one way to fetch runs by their ids.

Nothing is measured here. An arm opens its client once and then fetches as often as it is asked to;
``harness.interleave`` measures it. The official client's arms are in ``official.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
from attrs import frozen

from modellab_async import ModelLabClient

RUNS = "/api/v2/model-lab-api/runs"
API_KEY, APP_KEY = "a" * 32, "b" * 40

Fetch = Callable[..., Awaitable[None]]
"""``fetch(ids)`` gets every run asked for, or fails; ``fetch(ids, kept)`` adds them to a list."""


@frozen
class Arm:
    """One client: its name in tables, and how to open it for a base URL and a concurrency."""

    name: str
    open: Callable[[str, int], AbstractAsyncContextManager[Fetch]]
    step: int = 1
    """Runs that one request asks for."""


@asynccontextmanager
async def hand_loop(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The plain good way by hand: aiohttp, workers that share one iterator, dicts for models.

    A worker that meets a 429 sleeps until the period ends.
    """
    headers = {"DD-API-KEY": API_KEY, "DD-APPLICATION-KEY": APP_KEY}
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

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
async def common_loop(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """What most would write: a task per run behind a semaphore, and ``response.json()``."""
    headers = {"DD-API-KEY": API_KEY, "DD-APPLICATION-KEY": APP_KEY}
    async with aiohttp.ClientSession(headers=headers) as session:
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
    """This library's ``runs.fetch`` by the route named."""

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


HAND = Arm("hand-written loop", hand_loop)
COMMON = Arm("a loop as most write it", common_loop)
CONTROL = Arm("the same again (control)", hand_loop)
SINGLE = Arm("modellab_async, single", ours("single"))
BATCH = Arm("modellab_async, batch", ours("batch"), step=100)
