"""What a closed client still does, which is nothing; and token functions that misbehave."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from unittest import mock

import pytest
import virtual
from faultserver import FaultServer, send

from modellab_async import (
    ClientClosedError,
    ConfigError,
    ModelLabClient,
    NotFoundError,
    RetryPolicy,
)

pytestmark = pytest.mark.virtual_time

KEYS: dict[str, Any] = {"api_key": "a" * 32, "app_key": "b" * 40}
STALLED = send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "stall")
SILENT = send(b"", "stall")


@pytest.mark.parametrize("act", [STALLED, SILENT], ids=["body", "headers"])
@pytest.mark.parametrize("retry", [RetryPolicy(), RetryPolicy.none()], ids=["retry", "none"])
async def test_closing_ends_calls_that_are_under_way(act: Any, retry: RetryPolicy) -> None:
    """A call that waits for headers or for a body hears of the closing at once."""
    async with FaultServer() as server:
        server.default = act
        lab = ModelLabClient(base_url=server.base_url, **KEYS, timeout=30, retry=retry)
        call = asyncio.create_task(lab.runs.get(1))
        while not server.seen:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(1):
            await lab.aclose()
            with pytest.raises(ClientClosedError):
                await call


async def test_nothing_is_sent_after_closing() -> None:
    """A call that was waiting for its token when the client closed sends nothing."""
    waiting = asyncio.Event()

    async def token() -> str:
        waiting.set()
        await asyncio.sleep(0.05)
        return "t" * 30

    async with FaultServer() as server:
        lab = ModelLabClient(base_url=server.base_url, bearer_token=token)
        call = asyncio.create_task(lab.runs.get(1))
        await waiting.wait()
        await lab.aclose()
        with pytest.raises(ClientClosedError):
            await call
        assert server.seen == []


def failing_once(at: int) -> Any:
    """A token function whose call number ``at`` waits for a task that is cancelled."""
    calls = 0

    async def token() -> str:
        nonlocal calls
        calls += 1
        if calls == at:
            other = asyncio.ensure_future(asyncio.sleep(9))
            other.cancel()
            await other
        return "t" * 30

    return token


def slow_once() -> mock.Mock:
    """A token function whose first call takes longer than a test's timeout."""
    calls = itertools.count()

    async def token() -> str:
        if next(calls) == 0:
            await asyncio.sleep(9)
        return "t" * 30

    return mock.Mock(side_effect=token)


@pytest.mark.parametrize("route", ["single", "batch", "auto"])
async def test_a_token_that_is_cancelled_costs_its_own_ids_only(route: Any) -> None:
    """Every id has one outcome, where a token function waits for something that is cancelled."""
    async with (
        FaultServer() as server,
        ModelLabClient(base_url=server.base_url, bearer_token=failing_once(6)) as lab,
    ):
        outcomes = [outcome async for outcome in lab.runs.fetch(range(1, 1001), route=route)]
    assert sorted(outcome.run_id for outcome in outcomes) == list(range(1, 1001))
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert 1 <= len(errors) <= 100
    assert all(isinstance(error, ConfigError) for error in errors)


async def test_a_slow_token_is_a_time_out_of_its_attempt() -> None:
    """Token and request have one time-out together, and a late token is asked for again."""
    token = slow_once()
    async with (
        FaultServer() as server,
        ModelLabClient(
            base_url=server.base_url,
            bearer_token=token,
            timeout=0.1,
            retry=RetryPolicy(base=0.001),
        ) as lab,
    ):
        assert (await lab.runs.get(1)).id == 1
        assert len(server.seen) == 1
    assert token.call_count == 2


async def test_a_run_that_is_gone_is_not_deleted_by_a_token_that_came_too_late() -> None:
    """No token, no request: the 404 to the one that is sent is no success of an earlier one."""
    async with (
        FaultServer(send(b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", "keep")) as server,
        ModelLabClient(
            base_url=server.base_url,
            bearer_token=slow_once(),
            timeout=0.1,
            retry=RetryPolicy(base=0.001),
        ) as lab,
    ):
        with pytest.raises(NotFoundError):
            await lab.runs.delete(5)
        assert len(server.seen) == 1


async def test_closing_while_a_token_function_cleans_up() -> None:
    """The client closes although the timeout of an attempt has fired and is not over yet."""
    cleaning, clean = asyncio.Event(), asyncio.Event()

    async def token() -> str:
        try:
            await asyncio.sleep(9)
        finally:
            cleaning.set()
            await clean.wait()
        return "t" * 30

    async with FaultServer() as server:
        lab = ModelLabClient(base_url=server.base_url, bearer_token=token, timeout=0.01)
        call = asyncio.create_task(lab.runs.get(1))
        await cleaning.wait()
        await lab.aclose()
        clean.set()
        with pytest.raises(ClientClosedError):
            await call
        assert not server.seen


@pytest.mark.parametrize("retry", [0, False, "", {}])
async def test_what_is_no_policy_is_refused(retry: Any) -> None:
    """Nothing but None means the default policy."""
    with pytest.raises(ConfigError, match="retry must be a RetryPolicy"):
        ModelLabClient(base_url="http://127.0.0.1:1", **KEYS, retry=retry)
    async with ModelLabClient(base_url="http://127.0.0.1:1", **KEYS) as lab:
        with pytest.raises(ConfigError, match="retry must be a RetryPolicy"):
            lab.with_options(retry=retry)


async def test_a_retry_in_line_ends_at_its_deadline_with_its_own_error() -> None:
    """A retry that finds no place before the call's deadline fails as its last attempt did."""
    unavailable = send(b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n", "keep")
    async with (
        FaultServer(unavailable) as server,
        ModelLabClient(
            base_url=server.base_url,
            **KEYS,
            max_concurrency=1,
            timeout=5,
            clock=virtual.clock(),
            retry=RetryPolicy(deadline=0.4, base=0.1),
        ) as lab,
    ):
        server.default = SILENT
        first = asyncio.create_task(lab.runs.get(1))
        await asyncio.sleep(0)  # the second stands in line before the first is answered
        second = asyncio.create_task(lab.with_options(retry=RetryPolicy(deadline=None)).runs.get(2))
        async with asyncio.timeout(2):
            with pytest.raises(Exception, match="503") as caught:
                await first
        assert caught.value.attempts == 1  # type: ignore[attr-defined]
        assert lab.stats.retries == 0
        second.cancel()
        await asyncio.wait([second])
