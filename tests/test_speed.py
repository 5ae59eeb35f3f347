"""`speed.run`: uvloop, isal and fewer garbage collections, when asked for and at no other time."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator

import aiohttp
import pytest
import typer
import uvloop
from isal import isal_zlib

from modellab_async import speed
from modellab_async.cli.common import ExitCode, finish


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What aiohttp is told to decompress with, for this test only."""
    told: list[object] = []
    monkeypatch.setattr(aiohttp, "set_zlib_backend", told.append)
    return told


async def loop_in_use() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_run_uses_both(backends: list[object]):
    """It runs the coroutine on uvloop, returns its result, and has aiohttp decompress with isal."""
    assert isinstance(speed.run(loop_in_use()), uvloop.Loop)
    assert backends == [isal_zlib]


@pytest.mark.parametrize("debug", [True, False])
def test_run_takes_the_debug_mode(backends: list[object], debug: bool):
    """The event loop is in debug mode if that was asked for."""

    async def mode() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert speed.run(mode(), debug=debug) is debug


def test_run_raises_what_the_coroutine_raises(backends: list[object]):
    """An exception of the coroutine reaches the caller unchanged."""
    failure = LookupError("nothing there")

    async def fail() -> None:
        raise failure

    with pytest.raises(LookupError) as raised:
        speed.run(fail())
    assert raised.value is failure


def test_run_does_without(backends: list[object], monkeypatch: pytest.MonkeyPatch):
    """It runs the coroutine as asyncio.run does if neither of the two is installed."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setitem(sys.modules, "isal", None)
    assert not isinstance(speed.run(loop_in_use()), uvloop.Loop)
    assert backends == []


@pytest.fixture
def threshold() -> Iterator[tuple[int, int, int]]:
    """The collector's threshold; a test may change it."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


async def threshold_in_use() -> tuple[int, int, int]:
    return gc.get_threshold()


def test_run_collects_less_often(backends: list[object], threshold: tuple[int, int, int]):
    """The collector's threshold is 50,000 while the coroutine runs, and as before afterwards."""
    assert speed.run(threshold_in_use()) == (50_000, *threshold[1:])
    assert gc.get_threshold() == threshold


def test_the_threshold_returns_after_a_failure(
    backends: list[object], threshold: tuple[int, int, int]
):
    """A coroutine that raises leaves the collector's threshold as it was before."""

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        speed.run(fail())
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("own", [0, 80_000])
def test_run_never_collects_more_often(
    backends: list[object], threshold: tuple[int, int, int], own: int
):
    """A threshold that is higher already, or switches collections off, stays."""
    gc.set_threshold(own, *threshold[1:])
    assert speed.run(threshold_in_use()) == (own, *threshold[1:])


def test_the_command_line_uses_both(backends: list[object]):
    """A command's work runs on uvloop, and aiohttp decompresses with isal."""
    seen: list[asyncio.AbstractEventLoop] = []

    async def work() -> ExitCode:
        seen.append(await loop_in_use())
        return ExitCode.OK

    with pytest.raises(typer.Exit):
        finish(work())
    assert isinstance(seen[0], uvloop.Loop)
    assert backends == [isal_zlib]
