"""The clients that the benchmarks compare, each as one way to fetch runs by their ids.

`worker` opens an arm once and fetches as often as it is told to. The arms of the official client
are in `official`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import aiohttp
import msgspec
from attrs import frozen

from modellab_async import MetricSummary, ModelLabClient, Outcome, Param, Run, RunStatus, Tag

RUNS = "/api/v2/model-lab-api/runs"
API_KEY, APP_KEY = "a" * 32, "b" * 40
HEADERS = {"DD-API-KEY": API_KEY, "DD-APPLICATION-KEY": APP_KEY}
PAGE = 100

Fetch = Callable[[Iterable[int], list[Any] | None], Awaitable[None]]
"""``await fetch(ids, kept)`` gets each run or fails; it adds them to a list, if there is one."""
Open = Callable[[str, int], AbstractAsyncContextManager[Fetch]]


@frozen
class Arm:
    """One client: its name in tables, and how to open it for a base URL and a concurrency."""

    name: str
    open: Open
    page: int = 1
    """How many runs one request asks for."""
    separate: bool = False
    """Whether it needs its own process, since its import slows the others' collections down."""


class Attributes(msgspec.Struct, gc=False):
    name: str
    project_id: int
    status: RunStatus
    created_at: datetime
    updated_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    description: str = ""
    duration: float | None = None
    owner_id: str | None = None
    external_url: str | None = None
    mlflow_artifact_location: str = ""
    has_children: bool = False
    is_pinned: bool = False
    descendant_match: bool = False
    params: tuple[Param, ...] = ()
    tags: tuple[Tag, ...] = ()
    metric_summaries: tuple[MetricSummary, ...] = ()


class Resource(msgspec.Struct, gc=False):
    id: str
    attributes: Attributes


class Document(msgspec.Struct, gc=False):
    data: list[Resource]


decode_document = msgspec.json.Decoder(Document).decode


def read_dicts(body: bytes) -> list[Any]:
    return json.loads(body)["data"]


def read_models(body: bytes) -> list[Any]:
    outcomes = []
    for resource in decode_document(body).data:
        run_id = int(resource.id)
        run = Run(id=run_id, **msgspec.structs.asdict(resource.attributes))
        outcomes.append(Outcome(run_id, run))
    return outcomes


@asynccontextmanager
async def one_request_loop(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """Just aiohttp and `json.loads`, with workers that share an iterator of ids."""
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def fetch(ids: Iterable[int], kept: list[Any] | None) -> None:
            async def work(pending: Iterable[int]) -> None:
                for run_id in pending:
                    async with session.get(f"{url}{RUNS}/{run_id}") as response:
                        response.raise_for_status()
                        run = json.loads(await response.read())
                    assert run["data"]["id"] == str(run_id)
                    if kept is not None:
                        kept.append(run)

            await work_on(iter(ids), work, concurrency)

        yield fetch


def page_loop(read: Callable[[bytes], list[Any]]) -> Open:
    """The same with 100 ids a request."""

    @asynccontextmanager
    async def opened(url: str, concurrency: int) -> AsyncIterator[Fetch]:
        concurrency = min(concurrency, 10)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

            async def fetch(ids: Iterable[int], kept: list[Any] | None) -> None:
                async def work(pending: Iterable[Any]) -> None:
                    for page in pending:
                        query = {"filter[id]": ",".join(map(str, page)), "page[size]": str(PAGE)}
                        async with session.get(f"{url}{RUNS}", params=query) as response:
                            response.raise_for_status()
                            runs = read(await response.read())
                        assert len(runs) == len(page)
                        if kept is not None:
                            kept.extend(runs)

                await work_on(pages(ids), work, concurrency)

            yield fetch

    return opened


def modellab_async(route: str) -> Open:
    """``runs.fetch`` by a route."""

    @asynccontextmanager
    async def opened(url: str, concurrency: int) -> AsyncIterator[Fetch]:
        keys = {"api_key": API_KEY, "app_key": APP_KEY}
        async with ModelLabClient(base_url=url, max_concurrency=concurrency, **keys) as lab:

            async def fetch(ids: Iterable[int], kept: list[Any] | None) -> None:
                async with lab.runs.fetch(ids, route=route) as outcomes:
                    async for outcome in outcomes:
                        run = outcome.unwrap()
                        if kept is not None:
                            kept.append(run)

            yield fetch

    return opened


def official(name: str) -> Open:
    """A function of `official`, which is imported when its arm is opened."""

    def opened(url: str, concurrency: int) -> AbstractAsyncContextManager[Fetch]:
        from benchmarks import official as module  # noqa: PLC0415

        return getattr(module, name)(url, concurrency)

    return opened


async def work_on(pending: Any, work: Callable[[Any], Awaitable[None]], workers: int) -> None:
    await asyncio.gather(*(work(pending) for _ in range(workers)))


def pages(ids: Iterable[int]) -> Iterable[list[int]]:
    pending = iter(ids)
    while page := list(islice(pending, PAGE)):
        yield page


LOOP = Arm("one-request loop", one_request_loop)
DICTS = Arm("page loop of dicts", page_loop(read_dicts), PAGE)
MODELS = Arm("page loop of models", page_loop(read_models), PAGE)
SINGLE = Arm("modellab_async, single", modellab_async("single"))
BATCH = Arm("modellab_async, batch", modellab_async("batch"), PAGE)
OFFICIAL = Arm("Datadog's client, single", official("single"), separate=True)
OFFICIAL_PAGES = Arm("Datadog's client, batch", official("batch"), PAGE, separate=True)

ARMS = {arm.name: arm for arm in (LOOP, DICTS, MODELS, SINGLE, BATCH, OFFICIAL, OFFICIAL_PAGES)}
