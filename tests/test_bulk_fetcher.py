"""`BulkFetcher` on a double of ``perform``: which calls it makes, and what it makes of results."""

from __future__ import annotations

import asyncio
import itertools
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from conftest import PATIENCE, make_run, settled
from faultserver import listing
from payloads import resource

from modellab_async import (
    DecodeError,
    PermissionDeniedError,
    Run,
    StatusError,
    TransportError,
    make_converter,
)
from modellab_async.bulk import FIRST_REQUESTS, MAX_RETRYING, PAGES_IN_FLIGHT, BulkFetcher, Fetch
from modellab_async.documents import LazyPage, parse_page
from modellab_async.endpoints import Call

pytestmark = pytest.mark.usefixtures("task_factory")

Answer = Callable[[list[int], bool], Any]
"""From the ids of a call, and whether it is a listing, to its result; or raises."""


class Lab:
    """A double of ``perform``, which counts.

    Attributes:
        calls: all calls, in order.
        listed: the ids of each listing call.
        single: the ids of single calls.
        most: how many calls were in flight at the same time at most.
        go: whether calls are answered.
        retried: ids whose calls are retried for as long as they are in it.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or (lambda ids, listed: runs(ids))
        self.calls: list[Call] = []
        self.listed: list[list[int]] = []
        self.single: list[int] = []
        self.in_flight = self.most = 0
        self.go = asyncio.Event()
        self.go.set()
        self.retried: set[int] = set()

    async def perform(self, call: Call, on_retry: Callable[[], object] | None = None) -> Any:
        self.calls.append(call)
        query = parse_qs(call.query)
        ids = [int(run_id) for run_id in query.get("filter[id]", [str(call.expects)])[0].split(",")]
        if call.paged:
            self.listed.append(ids)
        else:
            self.single.append(ids[0])
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.go.wait()
            while not self.retried.isdisjoint(ids):
                if on_retry is not None:
                    on_retry()
                await asyncio.sleep(0)
            return self.answer(ids, call.paged)
        finally:
            self.in_flight -= 1

    def fetch(self, ids: Any, concurrency: int = 4, **options: Any) -> Fetch:
        return Fetch(BulkFetcher(ids, self.perform, concurrency, **options))


def runs(ids: Iterable[int], following: int | None = None) -> LazyPage[Run]:
    """A response with these runs."""
    return page(*(resource(run_id) for run_id in ids), next_number=following)


def page(*items: Any, **numbers: Any) -> LazyPage[Run]:
    """A page with items that may be anything."""
    return parse_page(listing(*items, **numbers), Run, make_converter())


def refusal(status: int) -> StatusError:
    return StatusError("no", status=status, method="GET", url="https://lab.example/runs")


@pytest.mark.parametrize(
    ("route", "concurrency", "most", "unread"),
    [
        ("single", 40, 40, 80),
        ("single", 3, 3, 6),
        ("batch", 40, PAGES_IN_FLIGHT, 1_400),
        ("batch", 3, 3, 700),
        ("auto", 3, 3, 700),
    ],
)
async def test_what_is_in_flight_and_read_ahead_is_bounded(
    route: Any, concurrency: int, most: int, unread: int
):
    """By the concurrency, and until the first success by the slow start."""
    lab, read = Lab(), 0

    def ids() -> Iterator[int]:
        nonlocal read
        for run_id in itertools.count(1):
            read = run_id
            yield run_id

    lab.go.clear()
    async with lab.fetch(ids(), concurrency, route=route) as all_:
        first = asyncio.create_task(anext(all_))
        await settled()
        assert lab.most == min(most, FIRST_REQUESTS)
        lab.go.set()
        await first
        await settled(500)
        assert lab.most <= most
        chunk = 1 if route == "single" else 100
        assert read == unread + 1 // chunk
        for _ in range(chunk):
            await anext(all_)
        await settled(500)
        assert read == unread + chunk + 1 // chunk


async def test_ids_whose_number_is_known_are_asked_for_at_once():
    """By as many calls as it takes, and the last one for those that are left."""
    lab = Lab()
    lab.go.clear()
    outcomes = lab.fetch(range(1, 251), 10)
    first = asyncio.create_task(anext(outcomes))
    await settled()
    assert [len(listed) for listed in lab.listed] == [100, 100, 50]
    lab.go.set()
    assert (await first).ok
    assert len([outcome async for outcome in outcomes]) == 249


async def test_bulk_calls_wait_for_quota_and_are_not_repeated_for_a_filter_that_is_ignored():
    """A listing of other runs is noticed by the fetch itself."""
    lab = Lab()
    assert len([outcome async for outcome in lab.fetch([1, 2])]) == 2
    assert len([outcome async for outcome in lab.fetch([4])]) == 1
    assert (lab.listed, lab.single) == ([[1, 2]], [4])
    assert all(call.wait_for_quota for call in lab.calls)
    assert lab.calls[0].unstructured
    assert parse_qs(lab.calls[0].query)["page[size]"] == ["2"]


async def test_a_listing_call_names_at_most_1500_characters_of_ids():
    """The longest id and a comma after each are counted."""
    lab = Lab()
    ids = [10**18 + number for number in range(100)]
    assert len([outcome async for outcome in lab.fetch([1, *ids[:-1]])]) == 100
    assert [len(listed) for listed in lab.listed] == [75, 25]


@pytest.mark.parametrize(
    ("error", "alone"),
    [
        (refusal(400), True),
        (refusal(404), True),
        (refusal(501), True),
        (refusal(408), False),
        (refusal(429), False),
        (refusal(500), False),
        (refusal(502), False),
        (refusal(503), False),
        (DecodeError("no JSON"), True),
        (TransportError("reset"), False),
    ],
)
async def test_after_which_errors_of_a_listing_single_requests_are_made(
    error: Exception, alone: bool
):
    """After those that say that there is no such listing, not after those of a bad moment."""

    def answer(ids: list[int], listing: bool) -> Any:
        if listing:
            raise error
        return runs(ids)

    lab = Lab(answer)
    outcomes = [outcome async for outcome in lab.fetch([1, 2, 3])]
    assert {outcome.ok for outcome in outcomes} == {alone}
    assert sorted(lab.single) == ([1, 2, 3] if alone else [])
    if not alone:
        assert {outcome.error for outcome in outcomes} == {error}
        assert [outcome.run_id for outcome in outcomes] == [1, 2, 3]


@pytest.mark.parametrize("following", [0, 1])
async def test_a_listing_whose_pages_do_not_advance_is_left(following: int):
    """The ids that it did not list are asked for individually."""
    lab = Lab(lambda ids, listing: runs([1], following) if listing else runs(ids))
    outcomes = [outcome async for outcome in lab.fetch([1, 2, 3])]
    assert sorted(outcome.unwrap().id for outcome in outcomes) == [1, 2, 3]
    assert len(lab.listed) == 2
    assert parse_qs(lab.calls[1].query)["page[number]"] == [str(following)]
    assert sorted(lab.single) == [2, 3]


async def test_a_later_page_that_fails_leaves_the_outcomes_of_earlier_ones():
    """With the batch route, its error is the outcome of the ids that were not listed before."""
    error = refusal(500)

    def answer(ids: list[int], listing: bool) -> Any:
        if len(lab.listed) > 1:
            raise error
        return runs([1], following=1)

    lab = Lab(answer)
    outcomes = {o.run_id: o async for o in lab.fetch([1, 2, 3], route="batch")}
    assert outcomes[1].unwrap().id == 1
    assert (outcomes[2].error, outcomes[3].error) == (error, error)
    assert len(outcomes) == 3


async def test_a_success_after_fifteen_refusals_keeps_the_credentials():
    """Each refusal is the outcome of its own id then."""

    def answer(ids: list[int], listing: bool) -> Any:
        if ids[0] < FIRST_REQUESTS:
            raise PermissionDeniedError("no", status=403, method="GET", url="https://lab.example")
        return runs(ids)

    outcomes = [o async for o in Lab(answer).fetch(range(1, 101), 1, route="single")]
    assert [o.run_id for o in outcomes if not o.ok] == [*range(1, FIRST_REQUESTS)]
    refused = Lab(lambda ids, _: answer([1], False))
    outcomes = [o async for o in refused.fetch(range(1, 101), 1, route="single")]
    assert len(refused.calls) == FIRST_REQUESTS
    assert {type(o.error) for o in outcomes} == {PermissionDeniedError}


@pytest.mark.parametrize("route", ["single", "batch", "auto"])
@pytest.mark.parametrize("ids", [range(1, 1_001), [5] * 1_000, [5, *[7] * 99] * 10])
async def test_if_all_is_refused_at_most_sixteen_requests_are_sent(route: Any, ids: Any):
    """However ids repeat, and whether they are listed or not; the refusal is their outcome."""

    def answer(ids: list[int], listed: bool) -> Any:
        raise PermissionDeniedError("no", status=403, method="GET", url="https://lab.example")

    lab = Lab(answer)
    outcomes = [outcome async for outcome in lab.fetch(ids, 100, route=route)]
    assert Counter(outcome.run_id for outcome in outcomes) == Counter(ids)
    assert {type(outcome.error) for outcome in outcomes} == {PermissionDeniedError}
    assert len(lab.calls) <= FIRST_REQUESTS


async def test_a_fetch_continues_after_a_retried_call_that_held_it_up():
    """With 15 refusals and a call that is retried, the next request waits for its end."""

    def answer(ids: list[int], listed: bool) -> Any:
        if ids == [0]:
            raise refusal(500)
        if ids[0] < FIRST_REQUESTS:
            raise PermissionDeniedError("no", status=403, method="GET", url="https://lab.example")
        return runs(ids)

    lab = Lab(answer)
    lab.retried = {0}
    async with lab.fetch(range(100), 1, route="single", keep_all=True) as outcomes:
        first = asyncio.create_task(anext(outcomes))
        await settled(200)
        assert len(lab.calls) == FIRST_REQUESTS
        lab.retried.clear()
        rest = [outcome async for outcome in outcomes]
    assert not (await first).ok
    assert sum(outcome.ok for outcome in rest) == 100 - FIRST_REQUESTS


@pytest.mark.parametrize("seed", range(20))
async def test_each_id_has_one_outcome_whatever_the_first_responses_are(seed: int):
    """Refusals, failures, retries and listings that are refused lose no id and repeat none."""
    chance = random.Random(seed)
    refused = PermissionDeniedError("no", status=403, method="GET", url="https://lab.example")
    errors = [refused] * chance.randint(0, 40) + [refusal(500)] * chance.randint(0, 40)
    chance.shuffle(errors)

    def answer(ids: list[int], listed: bool) -> Any:
        if errors:
            raise errors.pop()
        found = [run_id for run_id in ids if chance.random() < 0.7]
        return runs(found if listed else ids)

    lab = Lab(answer)
    lab.retried = set(chance.sample(range(600), 30))
    async with lab.fetch(range(600), chance.choice([1, 3, 40]), keep_all=True) as outcomes:
        first = asyncio.create_task(anext(outcomes))
        await settled(100)
        lab.retried.clear()
        run_ids = [(await first).run_id] + [outcome.run_id async for outcome in outcomes]
    assert sorted(run_ids) == [*range(600)]


async def test_a_generator_of_ids_is_closed_with_its_fetch():
    """Not left to the garbage collection."""
    closed = asyncio.Event()

    async def ids() -> AsyncIterator[int]:
        try:
            for run_id in range(1, 1_000_000):
                yield run_id
        finally:
            closed.set()

    async with Lab().fetch(ids(), route="single") as outcomes:
        await anext(outcomes)
        assert not closed.is_set()
    assert closed.is_set()
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_a_listing_that_is_refused_is_not_asked_for_again():
    """The ids that follow are asked for individually."""

    def answer(ids: list[int], listing: bool) -> Any:
        if listing:
            raise refusal(404)
        return runs(ids)

    lab = Lab(answer)
    outcomes = [outcome async for outcome in lab.fetch(range(1, 351), 1)]
    assert sorted(outcome.unwrap().id for outcome in outcomes) == [*range(1, 351)]
    assert len(lab.listed) == 1
    assert len(lab.single) == 350


@pytest.mark.parametrize(("route", "listings"), [("auto", 1), ("batch", 3)])
async def test_after_a_listing_of_other_runs_auto_asks_individually(route: Any, listings: int):
    """Batch asks again for what follows, and individually for what was not listed."""
    lab = Lab(lambda ids, listing: runs([1_000]) if listing else runs(ids))
    outcomes = [outcome async for outcome in lab.fetch(range(1, 251), 1, route=route)]
    assert sorted(outcome.unwrap().id for outcome in outcomes) == [*range(1, 251)]
    assert len(lab.listed) == listings
    assert sorted(lab.single) == [*range(1, 251)]


@pytest.mark.parametrize(("route", "chunk"), [("single", 1), ("batch", 100)])
async def test_a_call_that_is_retried_does_not_hold_up_those_behind_it(route: Any, chunk: int):
    """Another worker takes over, once for each such call, and ten at most for each of them."""
    lab = Lab()
    lab.retried = {1}
    async with lab.fetch(range(1, 3 * chunk + 1), 1, route=route) as outcomes:
        others = [(await anext(outcomes)).run_id for _ in range(2 * chunk)]
        assert sorted(others) == [*range(chunk + 1, 3 * chunk + 1)]
        assert lab.in_flight == 1
        lab.retried.clear()
        assert len([outcome async for outcome in outcomes]) == chunk
    lab = Lab()
    lab.retried = {*range(chunk + 1, 10_000)}
    async with lab.fetch(range(1, 10_000), 2, route=route) as outcomes:
        await anext(outcomes)
        await settled(300)
        assert lab.in_flight == 2 * (1 + MAX_RETRYING)


async def test_a_call_that_is_retried_again_and_again_is_replaced_once():
    """However often it is retried, one other call is in flight beside it."""
    lab = Lab()
    lab.retried = {1}
    async with lab.fetch(range(1, 100), 1, route="single") as outcomes:
        first = asyncio.create_task(anext(outcomes))
        async with asyncio.timeout(PATIENCE):
            while len(lab.calls) < 2:
                await asyncio.sleep(0)
        lab.go.clear()  # the first call is past this, and is retried meanwhile
        await settled(100)
        assert lab.in_flight == 2
        lab.go.set()
        await first


@pytest.mark.parametrize("route", ["single", "batch"])
async def test_outcomes_that_are_all_kept_do_not_hold_up_the_requests(route: Any):
    """As ``get_many`` keeps them; in the order of the ids if that is asked for."""
    lab = Lab()
    lab.retried = {1}
    async with lab.fetch(range(1, 2_001), 2, route=route, ordered=True, keep_all=True) as outcomes:
        first = asyncio.create_task(anext(outcomes))
        await settled(5_000)
        assert not first.done()
        assert sum(map(len, lab.listed)) + len(lab.single) == 2_000
        lab.retried.clear()
        assert (await first).run_id == 1
        assert [outcome.run_id async for outcome in outcomes] == [*range(2, 2_001)]


async def test_items_that_cannot_be_decoded_or_told_apart_are_asked_for_individually():
    """A run that cannot be decoded, but has an id that can, is the outcome of that id."""

    def answer(ids: list[int], listing: bool) -> Any:
        if listing:
            return page(resource(1), resource(2, duration="no number"), resource("no id"), 7)
        return runs(ids)

    lab = Lab(answer)
    outcomes = {outcome.run_id: outcome async for outcome in lab.fetch([1, 2, 2, 3], ordered=True)}
    assert isinstance(outcomes[2].error, DecodeError)
    assert outcomes[2].error.path == "$.data[1].attributes.duration"
    assert outcomes[1].ok
    assert outcomes[3].ok
    assert (len(outcomes), lab.single) == (3, [3])


async def test_an_error_that_is_about_no_id_ends_the_fetch():
    """It is raised to the consumer, and all other calls are cancelled."""

    def answer(ids: list[int], listing: bool) -> Any:
        if ids == [7]:
            raise RuntimeError("a bug")
        return runs(ids)

    lab = Lab(answer)
    lab.retried = {1, 2, 3}
    outcomes = lab.fetch(range(1, 100), 5, route="single")
    with pytest.raises(RuntimeError, match="a bug"):
        async for _ in outcomes:
            pass
    assert lab.in_flight == 0
    with pytest.raises(RuntimeError, match="a bug"):
        await anext(outcomes)
    await outcomes.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_taking_runs_that_are_ready_lets_other_tasks_run():
    """They are structured as they are taken: a hundred large ones would hold the loop for long."""
    large = [resource(run_id, description="x" * 10_000) for run_id in range(100)]
    lab = Lab(lambda ids, listed: page(*large))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with lab.fetch(range(100)) as outcomes:
        await anext(outcomes)
        counter, turns = asyncio.create_task(count()), 0
        assert [outcome.ok async for outcome in outcomes] == [True] * 99
        counter.cancel()
    assert turns >= 3


async def test_a_run_that_a_hook_makes_of_a_page_is_the_outcome_of_its_id():
    """Whatever the hook for runs returns: the JSON tells whose it is."""
    converter = make_converter()
    converter.register_structure_hook(Run, lambda value, _: value["attributes"]["name"])
    body = listing(resource(1, name="one"), resource(2, name="two"))
    lab = Lab(lambda ids, listed: parse_page(body, Run, converter))
    outcomes = [outcome async for outcome in lab.fetch([2, 1], ordered=True)]
    assert [(outcome.run_id, str(outcome.run)) for outcome in outcomes] == [(2, "two"), (1, "one")]
    assert lab.single == []


def _upper(value: Any, _: object) -> str:
    return str(value).upper()


def _name_of(value: Any, _: object) -> Any:
    return make_run(id=int(value["id"]), name=value["attributes"]["name"].upper())


@pytest.mark.parametrize(("kind", "hook"), [(str, _upper), (Run, _name_of)])
async def test_a_hook_that_is_registered_while_outcomes_wait(kind: Any, hook: Any):
    """It counts for pages that arrive afterwards; those that wait are structured as before."""
    converter = make_converter()
    body = listing(*(resource(run_id, name="otter") for run_id in (1, 2, 3)))
    lab = Lab(lambda ids, listed: parse_page(body, Run, converter))
    names = []
    async for outcome in lab.fetch([1, 2, 3]):
        names.append(outcome.unwrap().name)
        converter.register_structure_hook(kind, hook)
    assert names == ["otter"] * 3
    again = [outcome async for outcome in lab.fetch([1, 2, 3])]
    assert {outcome.unwrap().name for outcome in again} == {"OTTER"}


@pytest.mark.parametrize("route", ["single", "batch"])
async def test_runs_are_structured_when_their_outcomes_are_taken(route: Any):
    """Until then they are JSON, however they were requested."""
    structured: list[int] = []
    converter = make_converter()
    converter.register_structure_hook(Run, lambda value, _: structured.append(value["id"]))
    lab = Lab(
        lambda ids, listed: parse_page(listing(*[resource(each) for each in ids]), Run, converter)
    )
    async with lab.fetch([1, 2, 3], route=route, ordered=True) as outcomes:
        await anext(outcomes)
        await settled()
        assert structured == [1]
    assert lab.calls[0].unstructured


async def test_a_hook_that_makes_another_run_of_a_page_is_an_error():
    """As it is of a single response: a run must have the id that was asked for."""
    converter = make_converter()
    converter.register_structure_hook(Run, lambda value, _: make_run(id=77))
    lab = Lab(lambda ids, listed: parse_page(listing(resource(1), resource(2)), Run, converter))
    outcomes = [outcome async for outcome in lab.fetch([1, 2])]
    assert [str(outcome.error).partition(", at")[0] for outcome in outcomes] == [
        f"in the response for id {run_id}: Expected id {run_id}, got 77" for run_id in (1, 2)
    ]


async def test_an_error_of_an_item_keeps_nothing_of_whoever_takes_it():
    """Not even if that is done while another error is handled."""
    converter = make_converter()
    converter.register_structure_hook(float, lambda value, _: 1 / 0)
    body = listing(resource(1, duration=1.0), resource(2))
    lab = Lab(lambda ids, listed: parse_page(body, Run, converter))
    try:
        raise KeyError("mine")
    except KeyError:
        bad, _ = [outcome async for outcome in lab.fetch([1, 2], ordered=True)]
    assert bad.error is not None
    cause = bad.error.__cause__
    assert isinstance(cause, Exception)
    kept = [error.__traceback__ or error.__context__ for error in (bad.error, cause)]
    assert kept == [None, None]


async def test_pages_do_not_wait_to_be_taken_if_all_runs_are_kept():
    """Nothing bounds how many runs wait, so they must not wait as the JSON of whole pages."""
    pages: list[weakref.ref[Any]] = []

    def answer(ids: list[int], listed: bool) -> Any:
        made = runs(ids)
        pages.append(weakref.ref(made))
        return made

    lab = Lab(answer)
    async with lab.fetch(range(5_000), 10, ordered=True, keep_all=True) as outcomes:
        await anext(outcomes)
        await settled(500)
        assert len(pages) == 50
        assert sum(page() is not None for page in pages) <= PAGES_IN_FLIGHT
        assert len([outcome async for outcome in outcomes]) == 4_999


async def test_one_item_that_was_not_asked_for_does_not_end_the_listing():
    """Only a server that ignores the filter returns mostly others."""
    foreign = {"id": "99999", "type": "projects", "attributes": {}}
    lab = Lab(lambda ids, listed: page(*map(resource, ids), foreign))
    assert len([outcome async for outcome in lab.fetch(range(1, 301), 1) if outcome.ok]) == 300
    assert (len(lab.listed), lab.single) == (3, [])


async def test_closing_a_fetch_from_its_progress_ends_it_after_that_outcome():
    """The outcome whose progress is reported is returned, and is the last one."""

    def progress(done: int, total: int | None) -> None:
        if done == 3:
            fetcher.cancel()

    fetcher = BulkFetcher(range(250), Lab().perform, 4, on_progress=progress)
    assert [outcome.run_id async for outcome in Fetch(fetcher)] == [0, 1, 2]
