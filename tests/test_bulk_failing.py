"""Ids that fail again and again among many that do not, in virtual time."""

from __future__ import annotations

import contextlib
import random

import pytest
import virtual
from conftest import THOROUGH

from modellab_async import BulkError

CASES = [("fetch", 0.01), ("get_many", 0.05), ("fetch", 0.05), ("get_many", 0.01)]


@pytest.mark.parametrize(("how", "share"), CASES if THOROUGH else CASES[:2])
def test_ids_that_always_fail_do_not_hold_up_the_others(how: str, share: float):
    """With 1 to 5 % of ids in error, the last run comes within three times the undisturbed time."""
    ids = range(1, 1_001)

    def last_run(server: virtual.Server) -> float:
        async def fetch() -> None:
            lab = server.client()
            if how == "get_many":
                with contextlib.suppress(BulkError):
                    await lab.runs.get_many(ids, route="single")
            else:
                async for _outcome in lab.runs.fetch(ids, route="single"):
                    pass

        virtual.run(fetch())
        assert server.by_status[200] == len(ids) - len(server.broken)
        return max(at for at, status in server.log if status == 200)

    broken = random.Random(5).sample(ids, int(share * len(ids)))
    undisturbed = last_run(virtual.Server(latency=0.05, jitter=0.01))
    assert last_run(virtual.Server(latency=0.05, jitter=0.01, broken=set(broken))) < 3 * undisturbed
