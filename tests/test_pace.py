"""How many pages a fetch has in flight, and whether it makes equal params one object."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from faultserver import listing, resource
from modellab_async.bulk.keeping import Keeping
from modellab_async.codec import Codec

from modellab_async import NotFoundError, Param, Run, RunStatus
from modellab_async.bulk import fetch, pace
from modellab_async.bulk.pace import OPENING_PAGES, PAGES_AT_ONCE, Pace

if TYPE_CHECKING:
    from modellab_async.endpoints import Call


@attrs.define
class Watches:
    """Time, and the part of it in which the thread computed."""

    now: float = 0.0
    worked: float = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def read(self, pace: Pace, busy: float, pages: int = 1_000) -> None:
        """Have so many pages read, one a second, by a thread that is busy for a share of it."""
        for _ in range(pages):
            self.now += 1.0
            self.worked += busy
            pace.look()


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Watches:
    watches = Watches()
    monkeypatch.setattr(pace, "time", watches)
    return watches


def test_an_idle_processor_is_given_more_pages(watches: Watches) -> None:
    """As many as would have filled its time, up to what a fetch may have."""
    waiting = Pace(100)
    assert waiting.pages == OPENING_PAGES
    watches.read(waiting, busy=0.8, pages=OPENING_PAGES)
    assert waiting.pages == OPENING_PAGES / 0.8
    watches.read(waiting, busy=0.0)
    assert waiting.pages == PAGES_AT_ONCE


def test_a_busy_processor_is_left_with_two_pages(watches: Watches) -> None:
    """One to work on and one on its way; no more would be read any sooner."""
    working = Pace(100)
    watches.read(working, busy=1.0)
    assert working.pages == 2


def test_a_processor_with_enough_to_do_keeps_its_pages(watches: Watches) -> None:
    """Neither idle nor short of time: nothing changes, however long it lasts."""
    content = Pace(100)
    watches.read(content, busy=0.95)
    assert content.pages == OPENING_PAGES


@pytest.mark.parametrize("busy", [0.1, 1.0])
def test_pages_are_within_the_concurrency(watches: Watches, busy: float) -> None:
    """A client that may have one request in flight has one page in flight, busy or not."""
    lone = Pace(1)
    watches.read(lone, busy=busy)
    assert lone.pages == 1


async def test_workers_for_lone_ids_take_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ids pages leave out, there are never more pages in flight than the pace says."""
    monkeypatch.setattr(Pace, "look", lambda _: None)
    pages: set[object] = set()
    most = 0

    async def perform(call: Call) -> Any:
        nonlocal most
        if not call.paged:
            await asyncio.sleep(0)
            raise NotFoundError("404", status=404, method="GET", url="/")
        pages.add(call)
        most = max(most, len(pages))
        for _ in range(3):
            await asyncio.sleep(0)
        pages.remove(call)
        asked = re.findall(r"\d+", call.query.partition("page")[0])
        listed = [resource(run_id) for run_id in asked if int(run_id) % 50]
        return Codec().open_page(listing(*listed), Run)

    outcomes = fetch(
        range(1, 3_001),
        perform=perform,
        concurrency=100,
        route="batch",
        ordered=False,
        on_progress=None,
    )
    found = [outcome.ok async for outcome in outcomes]
    assert (len(found), sum(found)) == (3_000, 2_940)
    assert most == OPENING_PAGES


def a_run(**attributes: Any) -> Run:
    return Run(
        id=1,
        name="a",
        project_id=1,
        status=RunStatus.RUNNING,
        created_at=datetime.now(UTC),
        **attributes,
    )


def test_runs_are_taken_to_be_kept_until_one_was_dropped() -> None:
    """The sample is looked at when its taker has gone on, and not before."""
    keeping = Keeping()
    keeping.look(0, a_run(), due=3)
    keeping.look(2, a_run(), due=5)
    assert keeping.likely
    keeping.look(3, a_run(), due=6)
    assert not keeping.likely


def test_params_that_are_kept_count_as_runs_that_are() -> None:
    """Who takes the params out of a run, and drops the rest, would hold them all the same."""
    keeping, run = Keeping(), a_run(params=(Param("lr", "0.1"),))
    params = run.params
    keeping.look(0, run, due=1)
    del run
    keeping.look(1, None, due=2)
    assert keeping.likely
    assert params


def test_runs_that_are_kept_again_are_found_out() -> None:
    """A fetch whose runs were dropped at first is looked at again."""
    keeping, kept = Keeping(), a_run()
    keeping.look(0, a_run(), due=1)
    keeping.look(1, None, due=1)
    keeping.look(1, kept, due=2)
    assert not keeping.likely
    keeping.look(2, None, due=3)
    assert keeping.likely
