"""Tracebacks show the caller's line and the error, and little between them."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from conftest import client_for

from modellab_async import (
    BulkError,
    Hooks,
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    RetryPolicy,
)
from modellab_async.simulator import Fault, Simulator

PACKAGE = Path(__file__).parents[1] / "modellab_async"


def frames(error: BaseException) -> list[str]:
    """The functions of this package that a traceback shows, the outermost first."""
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in shown if Path(frame.filename).is_relative_to(PACKAGE)]


async def get_many(lab: ModelLabClient) -> None:
    await lab.runs.get_many([1, 2])


async def iterate_fetch(lab: ModelLabClient) -> None:
    async for outcome in lab.runs.fetch([1]):
        outcome.unwrap()


async def watch(lab: ModelLabClient) -> None:
    async for _ in lab.runs.watch([1]):
        pass


async def stream(lab: ModelLabClient) -> None:
    async with lab.artifacts.stream(1, "model.bin"):
        pass


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda lab: lab.runs.get(1), NotFoundError),
        (lambda lab: lab.with_options(hooks=Hooks()).runs.get(1), NotFoundError),
        (lambda lab: lab.runs.wait(1), NotFoundError),
        (get_many, BulkError),
        (iterate_fetch, NotFoundError),
        (watch, NotFoundError),
        (stream, NotFoundError),
        (lambda lab: lab.artifacts.download(1, "model.bin", "model.bin"), NotFoundError),
        (lambda lab: lab.artifacts.download_run(1, "out"), NotFoundError),
    ],
    ids=[
        *("get", "get with hooks", "wait", "get_many", "fetch", "watch", "stream"),
        *("download", "download_run"),
    ],
)
async def test_what_does_not_exist(
    lab: ModelLabClient,
    work: Callable[[ModelLabClient], Awaitable[object]],
    error: type[ModelLabError],
):
    """The traceback of a 404 has at most three frames of the package."""
    with pytest.raises(error) as caught:
        await work(lab)
    assert 1 <= len(frames(caught.value)) <= 3


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("iterate", [False, True], ids=["await", "async for"])
async def test_a_listing_that_fails(sim: Simulator, attempts: int, iterate: bool):
    """Neither retries nor pages that were requested ahead add frames."""
    sim.faults.always(Fault.status(500))
    async with client_for(sim, retry=RetryPolicy(attempts=attempts, base=0.0)) as lab:
        with pytest.raises(ModelLabError) as caught:
            if iterate:
                await anext(aiter(lab.runs.list()))
            else:
                await lab.runs.list()
    assert 1 <= len(frames(caught.value)) <= 3


async def test_pytest_hides_the_frames_of_the_call(lab: ModelLabClient):
    """Tests show their own line and the method, but not how the method sends its request."""
    with pytest.raises(NotFoundError) as caught:
        await lab.runs.get(1)
    shown = [entry.name for entry in caught.traceback.filter(caught)]
    assert shown[-1] == "get"
