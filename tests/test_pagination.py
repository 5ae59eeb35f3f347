"""Listings: pages, items, and rows that come and go while they are read."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import client_for, eventually, settled

from modellab_async import (
    DecodeError,
    ModelLabClient,
    Page,
    ProjectFilter,
    RetryPolicy,
    Run,
    RunFilter,
    RunStatus,
    ServerError,
)
from modellab_async.converter import make_converter
from modellab_async.documents import decode_page
from modellab_async.endpoints import Call
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.pagination import PAGES_AHEAD, Pager
from modellab_async.simulator import Fault, Simulator

pytestmark = pytest.mark.usefixtures("task_factory")


@pytest.mark.parametrize("base", [0, 1])
async def test_every_run_is_given_once(base):
    """The walk starts without a number and goes on by the server's own, whatever its base."""
    async with Simulator(runs=730, size="small", first_page=base) as sim, client_for(sim) as lab:
        ids = [run.id async for run in lab.runs.list(sort="created_at")]
        assert sorted(ids) == sorted(sim.run_ids)
        assert sim.counts.requests == 8
        queries = [record.query for record in sim.requests]
        assert "page%5Bnumber%5D" not in queries[0]
        assert all("page%5Bsize%5D=100" in query for query in queries)


async def test_awaiting_gives_one_page(sim: Simulator, lab: ModelLabClient):
    """One request, sent as given: the server's own page size unless one was named."""
    page = await lab.runs.list()
    assert isinstance(page, Page)
    assert (len(page.items), page.total, page.number, page.next_number) == (25, 2000, 0, 1)
    assert sim.requests[-1].query == ""
    page = await lab.runs.list(page_size=7)
    assert len(page.items) == 7
    assert sim.counts.requests == 2


async def test_pages_come_in_order(sim: Simulator, lab: ModelLabClient):
    """``pages()`` gives pages, whose items together are the listing."""
    pager = lab.runs.list(sort="name", page_size=50)
    pages = [page async for page in pager.pages()]
    assert [page.number for page in pages] == list(range(40))
    names = [run.name for page in pages for run in page.items]
    assert names == sorted(names)


async def test_filters_reach_the_server(sim: Simulator, lab: ModelLabClient):
    """What is given must hold for every item; what is not given is not sent."""
    one = await lab.runs.get(sim.run_ids[0])
    wanted = RunFilter(project_id=one.project_id, status=RunStatus.COMPLETED)
    runs = [run async for run in lab.runs.list(wanted, sort="-updated_at")]
    assert all(run.project_id == one.project_id for run in runs)
    assert {run.status for run in runs} <= {RunStatus.COMPLETED}
    projects = [project async for project in lab.projects.list(ProjectFilter(text="zzz-none"))]
    assert projects == []


async def test_an_empty_listing_is_one_empty_page(lab: ModelLabClient):
    """Nothing found is a page without items, and no iteration."""
    nothing = lab.runs.list(RunFilter(text="there is no such run"))
    assert (await nothing).items == ()
    assert [page.items async for page in nothing.pages()] == [()]
    assert [run async for run in nothing] == []


@pytest.mark.parametrize(
    "options",
    [
        {"sort": "status"},
        {"sort": "--name"},
        {"sort": ""},
        {"page_size": 0},
        {"page_size": 101},
        {"page_size": True},
        {"page_size": "50"},
    ],
)
async def test_bad_arguments_are_refused_at_once(lab: ModelLabClient, options):
    """Before any request, naming what would be right."""
    with pytest.raises(ValueError, match=next(iter(options))):
        lab.runs.list(**options)
    with pytest.raises(ValueError, match="sort"):
        lab.projects.list(sort="duration")


async def test_pages_are_requested_ahead():
    """Several pages are in flight while the first ones are read."""
    async with Simulator(runs=600, size="small", latency=0.02) as sim, client_for(sim) as lab:
        ids = [run.id async for run in lab.runs.list(page_size=10, sort="created_at")]
        assert len(ids) == 600
        assert sim.counts.peak_in_flight > 8


async def test_leaving_early_leaves_nothing(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter
):
    """Breaking out, dropping or closing stops what was asked for ahead."""
    before = asyncio.all_tasks()
    async for _ in lab.runs.list(page_size=10):
        break
    pages = lab.runs.list(page_size=10).pages()
    await anext(pages)
    await pages.aclose()
    async with lab.runs.list(page_size=10).pages() as again:
        await anext(again)
    await eventually(lambda: sim.counts.in_flight == 0)
    mine = [task for task in asyncio.all_tasks() - before if "load" in repr(task)]
    assert mine == []
    assert limiter.in_flight == 0
    with pytest.raises(StopAsyncIteration):
        await anext(again)


async def test_a_page_that_fails_for_good_is_raised_in_its_turn(sim: Simulator):
    """The items before it come first, and its error is the walk's."""
    sim.faults.always(Fault.status(512), where=lambda method, path: "number%5D=3" in path)
    async with client_for(sim, retry=RetryPolicy.none()) as lab:
        got = 0
        with pytest.raises(ServerError, match="512"):
            async for _ in lab.runs.list(page_size=10):
                got += 1
        assert got == 30


def body(ids: list[int], **numbers: Any) -> bytes:
    attributes = {
        "name": "r",
        "project_id": 1,
        "status": "running",
        "created_at": "2026-01-01T00:00:00Z",
    }
    data = [{"id": str(run_id), "type": "runs", "attributes": attributes} for run_id in ids]
    return json.dumps(
        {"data": data, "meta": {"page": numbers}, "links": {"next": "http://x"}}
    ).encode()


Answer = Callable[[int | None, int], bytes]


def pager_on(answer: Answer, *, size: int | None = None) -> Pager[Run]:
    """A pager whose pages come from a function of number and size; no socket."""
    converter = make_converter()

    async def perform(call: Call, /, **_: Any) -> Any:
        asked = json.loads(call.query)
        await asyncio.sleep(0)
        return await decode_page(answer(asked["number"], asked["size"]), Run, converter)

    def build(page_size: int | None, number: int | None) -> Call:
        query = json.dumps({"size": page_size, "number": number})
        return Call("t", "GET", "/t", query, returns=Run, paged=True)

    return Pager(build, perform=perform, page_size=size)


@pytest.mark.parametrize("next_number", [0, -1, 1])
async def test_a_number_that_does_not_advance_is_an_error(next_number):
    """It would be a loop."""

    def answer(number: int | None, size: int) -> bytes:
        return body(
            [number or 0], number=number or 0, next_number=1 if number is None else next_number
        )

    with pytest.raises(DecodeError, match="does not advance") as caught:
        async for _ in pager_on(answer):
            pass
    assert caught.value.path == "$.meta.page.next_number"


async def test_a_page_without_a_number_cannot_name_itself_as_the_next_one():
    """The number that was asked for is compared instead."""
    with pytest.raises(DecodeError, match="page 1 names page 1 as the next"):
        async for _ in pager_on(lambda number, size: body([number or 0], next_number=1)):
            pass


@pytest.mark.parametrize("total", [None, 3, 10**15])
@pytest.mark.parametrize(("per_page", "pages"), [(1, 11), (40, 3), (100, 3)])
async def test_a_listing_that_repeats_its_items_without_end_is_an_error(total, per_page, pages):
    """Two pages without anything new end the iteration; a few more if they are tiny."""
    requests = 0

    def answer(number: int | None, size: int) -> bytes:
        nonlocal requests
        requests += 1
        number = number or 0
        ids = list(range(per_page))
        return body(ids, number=number, next_number=number + 1, last_number=total, total=total)

    seen = []
    with pytest.raises(DecodeError, match=f"page {pages - 1} .* repeat items") as caught:
        async for run in pager_on(answer):
            seen.append(run.id)
    assert seen == list(range(per_page))
    assert pages <= requests <= pages + (0 if total is None else PAGES_AHEAD)
    assert caught.value.path == "$.meta.page.next_number"


async def test_a_listing_of_many_times_its_total_is_an_error():
    """Also if each of its items is new."""

    def answer(number: int | None, size: int) -> bytes:
        number = number or 0
        return body([2 * number, 2 * number + 1], number=number, next_number=number + 1, total=10)

    seen = 0
    with pytest.raises(DecodeError, match="211 pages of 10 items, and still") as caught:
        async for _ in pager_on(answer):
            seen += 1
    assert seen == 2 * 210
    assert caught.value.path == "$.meta.page.next_number"


async def test_a_listing_may_end_with_pages_of_items_it_had_before():
    """Rows that were inserted shift others behind them; the end is reached all the same."""

    def answer(number: int | None, size: int) -> bytes:
        number = number or 0
        return body([*range(40)], number=number, next_number=number + 1 if number < 2 else None)

    assert [run.id async for run in pager_on(answer)] == [*range(40)]


def pager_of_ten_pages(later: Callable[[], Awaitable[Any]]) -> Pager[Run]:
    """A pager whose first page is there; ``later`` makes the others."""

    async def perform(call: Call, /, **_: Any) -> Any:
        if call.query != "None":
            return await later()
        first = body([1], number=0, next_number=1, last_number=9)
        return await decode_page(first, Run, make_converter())

    def build(page_size: int | None, number: int | None) -> Call:
        return Call("t", "GET", "/t", str(number), returns=Run, paged=True)

    return Pager(build, perform=perform, page_size=None)


async def test_an_iteration_that_is_dropped_cancels_what_was_requested_ahead():
    """Also if the server never responds."""
    cancelled = 0

    async def later() -> Any:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    pages: Any = pager_of_ten_pages(later).pages()
    await anext(pages)
    await settled()
    del pages
    await settled()
    assert cancelled == 9


async def test_an_iteration_that_is_closed_ends_for_those_who_wait_for_a_page():
    """They are not cancelled."""
    pages: Any = pager_of_ten_pages(asyncio.Event().wait).pages()
    await anext(pages)
    waiting = asyncio.create_task(anext(pages))
    await settled()
    await pages.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_the_failure_of_a_page_that_nobody_reads_is_not_logged():
    """The iteration may end before its turn comes."""
    logged: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))

    async def later() -> Any:
        raise DecodeError("no JSON")

    pages: Any = pager_of_ten_pages(later).pages()
    await anext(pages)
    await settled()
    await pages.aclose()
    del pages
    gc.collect()
    await settled()
    assert logged == []


async def test_numbers_that_jump_are_followed():
    """Pages need not be numbered one by one."""
    follows = {None: 10, 10: 20, 20: 35, 35: None}

    def answer(number: int | None, size: int) -> bytes:
        ids = [number or 1]
        return body(ids, number=number, next_number=follows[number], last_number=35, total=4)

    assert [run.id async for run in pager_on(answer)] == [1, 10, 20, 35]


async def test_a_cancelled_anext_loses_nothing():
    """An iteration by ``wait_for`` that often times out yields every item once."""
    async with Simulator(runs=600, size="small", latency=0.01) as sim, client_for(sim) as lab:
        items = aiter(lab.runs.list(page_size=30))
        ids: list[int] = []
        timeouts = 0
        while True:
            try:
                ids.append((await asyncio.wait_for(anext(items), 0.004)).id)
            except TimeoutError:
                timeouts += 1
            except StopAsyncIteration:
                break
    assert sorted(ids) == sorted(sim.run_ids)
    assert timeouts


async def test_a_page_that_failed_is_requested_again(sim: Simulator):
    """Iterating on after an error resumes at the page that failed, and loses nothing."""
    sim.faults.matching(lambda method, path: "number%5D=3" in path, Fault.status(512))
    async with client_for(sim, retry=RetryPolicy.none()) as lab:
        items = aiter(lab.runs.list())
        ids: list[int] = []
        with pytest.raises(ServerError, match="512"):
            async for run in items:
                ids.append(run.id)
        async for run in items:
            ids.append(run.id)
    assert sorted(ids) == sorted(sim.run_ids)


async def test_two_tasks_may_share_one_iteration(sim: Simulator, lab: ModelLabClient):
    """Each item goes to one of them."""
    items = aiter(lab.runs.list())

    async def consume() -> list[int]:
        return [run.id async for run in items]

    one, other = await asyncio.gather(consume(), consume())
    assert sorted(one + other) == sorted(sim.run_ids)


# What is known at the end


async def test_a_listing_on_one_page_is_complete(lab: ModelLabClient):
    """One response is a moment; of several without verification, nothing is known."""
    many = lab.runs.list()
    assert many.complete is None
    assert len([run async for run in many]) == 2_000
    assert many.complete is None
    few = lab.projects.list(ProjectFilter(text="toxicity"))
    assert len([project async for project in few]) < 100
    assert few.complete is True


async def test_fewer_items_than_the_listing_counts_are_not_all():
    """A server that counts ten items and shows seven leaves some out."""

    def answer(number: int | None, size: int) -> bytes:
        return body(
            [*range(4)] if number is None else [4, 5, 6],
            total=10,
            number=number or 0,
            next_number=None if number else 1,
        )

    pager = pager_on(answer)
    assert len([run async for run in pager]) == 7
    assert pager.complete is False


async def test_without_a_total_nothing_is_known():
    """Not even of a single page, which may be all or not."""
    pager = pager_on(lambda number, size: body([1, 2, 3]))
    assert len([run async for run in pager]) == 3
    assert pager.complete is None


@pytest.mark.parametrize(
    ("base", "sort"), [(0, None), (1, "created_at"), (0, "-created_at"), (1, None)]
)
async def test_verification_costs_a_sixth_more_requests(base, sort):
    """At most, whichever way the server counts its pages."""
    async with (
        Simulator(runs=2_000, size="small", first_page=base) as sim,
        client_for(sim) as lab,
    ):
        pager = lab.runs.list(sort=sort, verify=True)
        runs = [run async for run in pager]
        assert sorted(run.id for run in runs) == sorted(sim.run_ids)
        times = [run.created_at for run in runs]
        assert times == sorted(times, reverse=sort == "-created_at")
        assert pager.complete is True
        assert sim.counts.requests <= 20 * 7 / 6 + 2


@pytest.mark.parametrize(
    "options", [{"sort": "name"}, {"sort": "updated_at"}, {"pinned_first": True}]
)
async def test_verification_refuses_an_order_that_changes(lab: ModelLabClient, options: Any):
    """It relies on a field that never changes."""
    with pytest.raises(ValueError, match="created_at"):
        lab.runs.list(verify=True, **options)
