"""The extra ``speed``: uvloop and isal, in use when asked for and at no other time."""

from __future__ import annotations

import asyncio
import sys

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
