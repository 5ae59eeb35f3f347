"""pytest fixtures for the users' own tests, described in docs/how-to/testing-your-own-code.md.

pytest loads it at every start for all who have the package installed, so it imports nothing of the
package before a fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

try:
    from pytest_asyncio import fixture as async_fixture  # which its strict mode insists on
except ImportError:
    async_fixture = pytest.fixture  # type: ignore[assignment]  # as anyio's plugin takes them

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from aioresponses import aioresponses

    from modellab_async import ModelLabClient
    from modellab_async.simulator import Simulator


@pytest.fixture
def modellab_runs() -> Iterable[Mapping[str, Any]]:
    """The runs there are, each as arguments of `Simulator.insert_run`; yours replace these."""
    return ()


@async_fixture
async def modellab_sim(modellab_runs: Iterable[Mapping[str, Any]]) -> AsyncIterator[Simulator]:
    """A simulator of the API on this machine that has the declared runs and no others."""
    from modellab_async.simulator import Simulator  # noqa: PLC0415

    async with Simulator(runs=0) as simulator:
        for run in modellab_runs:
            simulator.insert_run(**run)
        yield simulator


@pytest.fixture
def modellab_no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once, in every client; how many there are stays as it is."""
    from modellab_async import RetryPolicy  # noqa: PLC0415

    monkeypatch.setattr(RetryPolicy, "backoff", lambda *_: 0.0)


@async_fixture
async def modellab(
    modellab_sim: Simulator,
    modellab_no_backoff: None,  # noqa: ARG001
) -> AsyncIterator[ModelLabClient]:
    """A client on the simulator, whose retries follow at once."""
    from modellab_async import ModelLabClient  # noqa: PLC0415

    sim = modellab_sim
    async with ModelLabClient(
        base_url=sim.base_url, api_key=sim.api_key, app_key=sim.app_key
    ) as client:
        yield client


@pytest.fixture
def modellab_fail(modellab_sim: Simulator) -> Callable[..., None]:
    """Have the next requests meet a fault: ``modellab_fail(503, 429, "reset")``, one each.

    With ``run=70158`` it is the next requests for that run alone. A number is a status; the
    names are those of `Fault`: close, cut, drip, lost, reset, stall. All of them fail a request,
    but for ``"drip"``, which only slows its answer down. Another name is a `ValueError`.
    """
    from modellab_async.simulator import Fault  # noqa: PLC0415

    kinds = (Fault.close, Fault.cut, Fault.drip, Fault.lost, Fault.reset, Fault.stall)
    named = {kind.__name__: kind for kind in kinds}

    def made(fault: int | str) -> Fault:
        if fault == 429:
            return Fault.rate_limited(reset=0.001)  # the client waits a second after a 0
        if isinstance(fault, int):
            return Fault.status(fault)
        if fault not in named:
            raise ValueError(f"fault must be a status or one of {', '.join(named)}, not {fault!r}")
        return named[fault]()

    def fail(*faults: int | str, run: int | None = None) -> None:
        script = [made(fault) for fault in faults]
        if run is None:
            modellab_sim.faults.next(*script)
        else:
            modellab_sim.faults.for_run(run, *script)

    return fail


@pytest.fixture
def modellab_aioresponses() -> Iterator[aioresponses]:
    """`aioresponses` for canned answers; it must be installed, and is made to fit aiohttp 3.14."""
    import functools  # noqa: PLC0415
    from unittest import mock  # noqa: PLC0415

    import aiohttp  # noqa: PLC0415
    from aioresponses import aioresponses  # noqa: PLC0415

    # https://github.com/pnuckowski/aioresponses/issues/289
    response = functools.partial(aiohttp.ClientResponse, stream_writer=mock.Mock(output_size=0))
    with mock.patch("aioresponses.core.ClientResponse", response), aioresponses() as canned:
        yield canned
