"""Listings that change while they are read: what is missed, and what is known of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from conftest import settled
from hypothesis import given
from hypothesis import strategies as st

from modellab_async import Page
from modellab_async.endpoints import Call
from modellab_async.pagination import PAGES_AHEAD, Pager

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@attrs.frozen
class Row:
    """All that a pager looks at."""

    id: int
    second: int

    @property
    def created_at(self) -> datetime:
        return EPOCH + timedelta(seconds=self.second)


@attrs.frozen
class Decoded:
    """What ``perform`` returns for a page."""

    numbers: Page[Row]

    def page(self) -> Page[Row]:
        return self.numbers


def build(size: int | None, number: int | None) -> Call:
    return Call("t", "GET", "/t", json.dumps({"size": size, "number": number}), paged=True)


Change = tuple[str, float]
"""What happens, and at which row, as a share of all."""

CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["insert", "delete", "replace"]), st.floats(0, 0.999)),
        max_size=12,
    ),
    max_size=30,
)
"""What happens between one request and the next."""


class Table:
    """Rows that change while they are listed by offset, sorted by ``created_at``.

    Attributes:
        stayed: the rows that existed from the beginning on.
        asked: how many pages were requested.
    """

    def __init__(
        self,
        rows: int,
        changes: list[list[Change]],
        *,
        base: int = 0,
        largest: int = 100,
        ties: int = 1,
        descending: bool = False,
    ) -> None:
        self.ids = itertools.count(1)
        self.ties, self.base, self.largest, self.descending = ties, base, largest, descending
        self.rows = [Row(next(self.ids), 1_000_000 * (n // ties)) for n in range(rows)]
        if descending:
            self.rows.reverse()
        self.stayed = {row.id for row in self.rows}
        self.changes = iter(changes)
        self.asked = 0

    def page(self, number: int | None, size: int) -> Page[Row]:
        self.asked += 1
        size = min(size, self.largest)
        index = (self.base if number is None else number) - self.base
        pages = max(1, math.ceil(len(self.rows) / size))
        page = Page(
            items=tuple(self.rows[index * size : (index + 1) * size]),
            total=len(self.rows),
            number=index + self.base,
            size=size,
            next_number=index + 1 + self.base if index + 1 < pages else None,
            first_number=self.base,
            last_number=pages - 1 + self.base,
        )
        for kind, share in next(self.changes, []):
            place = int(share * len(self.rows))
            if kind != "insert" and self.rows:
                self.stayed.discard(self.rows.pop(place).id)
            if kind != "delete":
                self.insert(place if kind == "insert" else len(self.rows))
        return page

    def insert(self, place: int) -> None:
        step = -2_000_000 if self.descending else 2_000_000
        before = self.rows[place - 1].second if place else 0
        if place == 0 and self.rows:
            before = self.rows[0].second - step
        after = self.rows[place].second if place < len(self.rows) else before + step
        self.rows.insert(place, Row(next(self.ids), (before + after) // 2))

    def pager(self, size: int | None, verify: Any) -> Pager[Any]:
        """A listing of the rows."""

        async def perform(call: Call, /, **_: Any) -> Any:
            asked = json.loads(call.query)
            await asyncio.sleep(0)
            page = self.page(asked["number"], asked["size"])
            await asyncio.sleep(0)
            return Decoded(page)

        return Pager(build, perform=perform, page_size=size, verify=verify)

    def read(self, size: int | None, verify: Any) -> tuple[list[int], bool | None]:
        """List all items, on an event loop of its own; and what is known of their completeness."""

        async def read() -> tuple[list[int], bool | None]:
            pager = self.pager(size, verify)
            return [row.id async for row in pager], pager.complete

        return asyncio.run(read())


@given(
    rows=st.integers(0, 400),
    size=st.sampled_from([10, 40, 100]),
    base=st.sampled_from([0, 1]),
    changes=CHANGES,
)
def test_no_iteration_says_complete_and_missed_an_item(rows, size, base, changes):
    """Whatever comes and goes between requests; and no item appears twice."""
    table = Table(rows, changes, base=base)
    ids, complete = table.read(size, None)
    assert max(Counter(ids).values(), default=1) == 1
    if complete is True:
        assert table.stayed <= set(ids)
        assert table.asked == 1


@given(
    rows=st.integers(0, 700),
    largest=st.sampled_from([30, 60, 100]),
    base=st.sampled_from([0, 1]),
    ties=st.sampled_from([1, 1, 2, 7, 50, 400]),
    descending=st.booleans(),
    changes=CHANGES,
)
def test_a_verified_iteration_knows_that_nothing_was_missed(
    rows, largest, base, ties, descending, changes
):
    """It is complete unless more items than fit into a page were created at the same moment."""
    table = Table(rows, changes, base=base, largest=largest, ties=ties, descending=descending)
    ids, complete = table.read(None, "-created_at" if descending else "created_at")
    assert max(Counter(ids).values(), default=1) == 1
    if complete is True:
        assert table.stayed <= set(ids)
    if ties < 7:
        assert complete is True


@given(rows=st.integers(0, 400), changes=CHANGES, base=st.sampled_from([0, 1]))
def test_inserts_alone_lose_nothing(rows, changes, base):
    """Also without verification, although that is not known."""
    inserts = [[("insert", share) for _, share in moment] for moment in changes]
    table = Table(rows, inserts, base=base)
    ids, _ = table.read(40, None)
    assert max(Counter(ids).values(), default=1) == 1
    assert table.stayed <= set(ids)


def test_many_rows_that_are_inserted_before_are_no_endless_listing():
    """They shift rows that were read already past page after page."""
    table = Table(300, [[], [], [], [], [("insert", 0.0)] * 200])
    ids, _ = table.read(40, None)
    assert table.stayed <= set(ids)


def test_an_order_that_is_not_kept_is_no_proof():
    """A server that ignores ``sort`` is read to its end, without a claim."""
    table = Table(250, [])
    random.Random(5).shuffle(table.rows)
    ids, complete = table.read(None, "created_at")
    assert set(ids) == table.stayed
    assert complete is None
    assert table.asked == 3


def test_an_order_that_is_not_kept_to_the_end_is_no_proof():
    """The rest is read without overlaps, from where the order ends."""
    table = Table(600, [])
    table.rows[300:] = reversed(table.rows[300:])
    ids, complete = table.read(None, "created_at")
    assert set(ids) == table.stayed
    assert complete is None
    assert table.asked <= 11  # six of which were requested ahead


# What verification costs, and where it ends


@pytest.mark.parametrize(("ties", "requests"), [(1, 5), (5, 6), (8, 9)])
def test_rows_of_the_same_moment_cost_few_requests_more(ties: int, requests: int):
    """The next page begins before all of them."""
    table = Table(400, [], ties=ties)
    ids, complete = table.read(None, "created_at")
    assert set(ids) == table.stayed
    assert complete is True
    assert table.asked == requests


@pytest.mark.parametrize("verify", [None, "created_at"])
async def test_sixteen_pages_are_requested_ahead_at_most(verify: Any):
    """However long the listing is."""
    table = Table(5_000, [])
    pages = table.pager(None, verify).pages()
    await anext(pages)
    await settled()
    assert table.asked == 1 + PAGES_AHEAD
    await pages.aclose()


def test_rows_that_vanish_are_stepped_back_over():
    """By as many as the total says, so that it costs few requests."""
    table = Table(3_000, [*[[]] * 17, [("delete", 0.0)] * 30])
    ids, complete = table.read(None, "created_at")
    assert table.stayed <= set(ids)
    assert complete is True
    assert table.asked <= 55  # 35 without


def test_rows_that_come_and_go_too_fast_leave_it_unknown():
    """No page begins before what was read, however far it is stepped back."""
    gone, come = [("delete", 0.0)] * 100, [("insert", 0.0)] * 120
    table = Table(300, [gone, [], [], come, [*gone, *gone]])
    ids, complete = table.read(None, "created_at")
    assert max(Counter(ids).values()) == 1
    assert complete is None


def test_one_row_that_two_pages_share_is_proof_enough():
    """All rows behind it vanish."""
    table = Table(160, [[("delete", 0.999)] * 62])
    ids, complete = table.read(None, "created_at")
    assert table.stayed <= set(ids)
    assert complete is True


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["size"], True),
        (["number"], True),
        (["total"], True),
        (["first_number", "last_number"], True),
        (["number", "first_number"], None),
    ],
)
def test_what_a_server_leaves_out_does_not_stop_verification(names: list[str], known: bool | None):
    """Only without any number of the first page is there nothing to count from."""
    left_out: dict[str, Any] = dict.fromkeys(names)

    class Terse(Table):
        def page(self, number: int | None, size: int) -> Page[Row]:
            return attrs.evolve(super().page(number, size), **left_out)

    table = Terse(400, [])
    ids, complete = table.read(None, "created_at")
    assert set(ids) == table.stayed
    assert complete is known


@pytest.mark.parametrize("descending", [True, False])
def test_a_page_that_begins_with_a_row_of_the_same_moment_is_no_proof(descending: bool):
    """The server may have put another row of that moment before it."""

    class Reordering(Table):
        def page(self, number: int | None, size: int) -> Page[Row]:
            page = super().page(number, size)
            if self.asked == 1:
                self.rows[96:104] = reversed(self.rows[96:104])
                for row in self.rows[:2]:
                    self.stayed.discard(row.id)
                del self.rows[:2]
            return page

    table = Reordering(160, [], ties=8, descending=descending)
    ids, _ = table.read(None, "-created_at" if descending else "created_at")
    assert table.stayed <= set(ids)
