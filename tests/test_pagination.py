"""Listings: pages, items, and rows that come and go while they are read."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import client_for, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

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
from modellab_async.converter import decode_page, make_converter
from modellab_async.endpoints import Call
from modellab_async.pagination import Pager
from modellab_async.simulator import Fault, Simulator


@pytest.mark.parametrize("base", [0, 1])
async def test_every_run_is_given_once(base):
    """The walk starts without a number and goes on by the server's own, whatever its base."""
    async with Simulator(runs=730, first_page=base) as sim, client_for(sim) as lab:
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
    assert pager.complete is True


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


async def test_pages_are_asked_for_ahead(fake):
    """A walk of 60 pages at 20 ms of latency takes far less than 60 times that."""
    async with Simulator(runs=600, latency=0.02) as sim, client_for(sim) as lab:
        began = asyncio.get_running_loop().time()
        ids = [run.id async for run in lab.runs.list(page_size=10, sort="created_at")]
        took = asyncio.get_running_loop().time() - began
        assert len(ids) == 600
        assert sim.counts.peak_in_flight > 8
        assert took < 60 * 0.02 * 2  # a walk one by one cannot overlap its waits


async def test_leaving_early_leaves_nothing(sim: Simulator, lab: ModelLabClient):
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
    assert lab._limiter.in_flight == 0
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

    async def perform(call: Call) -> Any:
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

    with pytest.raises(DecodeError, match="does not advance"):
        async for _ in pager_on(answer):
            pass


@pytest.mark.parametrize("total", [None, 3])
async def test_a_listing_that_never_ends_is_an_error(total, monkeypatch: pytest.MonkeyPatch):
    """An endless next number ends in bounded time, with an error."""
    monkeypatch.setattr("modellab_async.pagination._UNCOUNTED_PAGES", 500)

    def answer(number: int | None, size: int) -> bytes:
        return body([5], number=number or 0, next_number=(number or 0) + 1, total=total)

    pager = pager_on(answer)
    with pytest.raises(DecodeError, match="still a next one"):
        async for _ in pager:
            pass


async def test_numbers_that_jump_are_followed():
    """Pages need not be numbered one by one."""
    follows = {None: 10, 10: 20, 20: 35, 35: None}

    def answer(number: int | None, size: int) -> bytes:
        ids = [number or 1]
        return body(ids, number=number, next_number=follows[number], last_number=35, total=4)

    assert [run.id async for run in pager_on(answer)] == [1, 10, 20, 35]


class Table:
    """Rows that change while they are listed, served by offset as the API does."""

    def __init__(self, rows: int, base: int) -> None:
        self.rows = [number * 1_000 for number in range(1, rows + 1)]
        self.stayed = set(self.rows)
        self.base = base
        self.asked = 0

    def answer(self, number: int | None, size: int) -> bytes:
        self.asked += 1
        index = (number if number is not None else self.base) - self.base
        pages = max(1, math.ceil(len(self.rows) / size))
        more = index + 1 < pages
        return body(
            self.rows[index * size : (index + 1) * size],
            number=index + self.base,
            next_number=index + 1 + self.base if more else None,
            first_number=self.base,
            last_number=pages - 1 + self.base,
            total=len(self.rows),
            size=size,
        )

    def insert(self, where: float) -> None:
        place = int(where * len(self.rows))
        before = self.rows[place - 1] if place else 0
        after = self.rows[place] if place < len(self.rows) else before + 1_000
        if after - before > 1:
            self.rows.insert(place, (before + after) // 2)

    def delete(self, where: float) -> None:
        if self.rows:
            self.stayed.discard(self.rows.pop(int(where * len(self.rows))))


CHANGES = st.lists(st.one_of(st.none(), st.floats(0, 0.999)), max_size=40)


def walk(table: Table, size: int, change: Callable[[], None]) -> tuple[list[int], bool | None]:
    def answer(number: int | None, asked: int) -> bytes:
        page = table.answer(number, asked)
        change()
        return page

    async def all_items() -> tuple[list[int], bool | None]:
        pager = pager_on(answer, size=size)
        return [run.id async for run in pager], pager.complete

    return asyncio.run(all_items())


@given(
    rows=st.integers(0, 60), size=st.integers(1, 30), base=st.sampled_from([0, 1]), moves=CHANGES
)
@settings(max_examples=150, deadline=None)
def test_inserts_lose_and_repeat_nothing(rows, size, base, moves):
    """With an ascending sort, what existed throughout appears exactly once."""
    table, pending = Table(rows, base), iter(moves)

    def change() -> None:
        where = next(pending, None)
        if where is not None:
            table.insert(where)

    ids, complete = walk(table, size, change)
    assert max(Counter(ids).values(), default=1) == 1
    assert table.stayed <= set(ids)
    assert complete is True


@given(
    rows=st.integers(0, 60), size=st.integers(1, 30), base=st.sampled_from([0, 1]), moves=CHANGES
)
@settings(max_examples=150, deadline=None)
def test_deletes_that_stop_lose_and_repeat_nothing(rows, size, base, moves):
    """Where rows vanished, the walk is repeated until it holds."""
    table, pending = Table(rows, base), iter(moves)

    def change() -> None:
        where = next(pending, None)
        if where is not None:
            table.delete(where)

    ids, complete = walk(table, size, change)
    assert max(Counter(ids).values(), default=1) == 1
    assert table.stayed <= set(ids)
    assert complete is True


@given(rows=st.integers(2, 60), size=st.integers(1, 20), base=st.sampled_from([0, 1]))
@settings(max_examples=30, deadline=None)
def test_endless_deletes_end_in_a_walk_that_says_so(rows, size, base):
    """No item appears twice, the walk ends, and its state tells if it may have missed some."""
    table = Table(rows, base)

    def change() -> None:
        table.delete(0.0)
        table.rows.append(table.rows[-1] + 1 if table.rows else 1)
        if table.asked % 2:
            table.delete(0.0)
        else:
            table.rows.append(table.rows[-1] + 1 if table.rows else 1)

    ids, complete = walk(table, size, change)
    assert max(Counter(ids).values(), default=1) == 1
    assert table.asked <= 1_500
    assert complete in {True, False}
