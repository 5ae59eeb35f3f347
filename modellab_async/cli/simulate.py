"""``modellab simulate``: a Model Lab on this machine, to try things against."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from modellab_async.cli.common import ExitCode, complain, examples, finish, note
from modellab_async.cli.output import write_line

if TYPE_CHECKING:
    from modellab_async.simulator import Simulator

_UNLIMITED = "none"

app: typer.Typer = typer.Typer(rich_markup_mode="rich")

FaultRate = Annotated[
    float,
    typer.Option(
        "--faults",
        metavar="RATE",
        min=0.0,
        max=1.0,
        help="Share of requests that meet a fault, 0 to 1.",
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--rate-limit",
        metavar="LIMIT/PERIOD",
        help="Requests in each period of so many seconds, such as 100/10, or `none`.",
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Another seed, other runs and other faults.")
]


@app.command(
    epilog=examples(
        "modellab simulate",
        "modellab simulate --faults 0.1 --rate-limit 100/10 --port 8126",
    )
)
def simulate(
    *,
    runs: Annotated[int, typer.Option("--runs", min=1, help="How many runs there are.")] = 65_614,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 for a free one.")
    ] = 0,
    faults: FaultRate = 0.0,
    rate_limit: Limit = _UNLIMITED,
    latency: Annotated[
        float, typer.Option("--latency", metavar="SECONDS", min=0.0, help="Delay of every answer.")
    ] = 0.0,
    seed: Seed = None,
) -> NoReturn:
    """Run a simulated Model Lab on this machine until Ctrl-C.

    Standard output holds the environment to use it with, ready for a shell to read.
    """
    simulator = new_simulator(
        runs=runs, port=port, faults=faults, rate_limit=rate_limit, latency=latency, seed=seed
    )
    finish(_serve(simulator))


def new_simulator(
    *,
    runs: int,
    faults: float,
    rate_limit: str,
    seed: int | None,
    port: int = 0,
    latency: float = 0.0,
) -> Simulator:
    """A simulator as the options describe it.

    Raises:
        typer.BadParameter: where ``rate_limit`` is neither ``LIMIT/PERIOD`` nor ``none``.
    """
    from modellab_async import simulator  # noqa: PLC0415 - a server is slow to import

    seed = simulator.DEFAULT_SEED if seed is None else seed
    # A 429 that names no time makes every client pause blindly; the limit's own ones name it.
    blind = simulator.Fault.rate_limited()
    kinds = [fault for fault in simulator.DEFAULT_FAULTS if fault != blind]
    limit = _parse_rate_limit(rate_limit)
    return simulator.Simulator(
        runs=runs,
        seed=seed,
        port=port,
        faults=simulator.Faults(faults, kinds, seed=seed),
        rate_limit=None if limit is None else simulator.RateLimit(*limit),
        latency=latency,
    )


def _parse_rate_limit(text: str) -> tuple[int, int] | None:
    if text == _UNLIMITED:
        return None
    limit, _, period = text.partition("/")
    if not (limit.isdecimal() and period.isdecimal() and int(limit) and int(period)):
        raise typer.BadParameter(
            f"{text!r} is not LIMIT/PERIOD in whole requests and seconds, such as 100/10",
            param_hint="'--rate-limit'",
        )
    return int(limit), int(period)


async def _serve(simulator: Simulator) -> ExitCode:
    try:
        await simulator.start()
    except OSError as error:
        complain(f"cannot listen: {error.strerror or error}")
        return ExitCode.USAGE
    try:
        _introduce(simulator)
        await asyncio.Event().wait()
    finally:
        await simulator.close()
    return ExitCode.OK


def _introduce(simulator: Simulator) -> None:
    ids = simulator.run_ids
    note(f"Simulating {len(ids):,} runs at {simulator.base_url} until Ctrl-C. To use them:\n")
    write_line(f"export MODELLAB_BASE_URL={simulator.base_url}")
    write_line(f"export DD_API_KEY={simulator.api_key} DD_APP_KEY={simulator.app_key}")
    write_line("unset DD_BEARER_TOKEN")
    note(f"\nFor instance: modellab runs get {ids[0]} {ids[-1]}")
