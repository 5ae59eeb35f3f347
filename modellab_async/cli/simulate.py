"""``modellab simulate`` and ``modellab demo``: a Model Lab on this machine, without an account."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from modellab_async import NotFoundError
from modellab_async.cli.common import ExitCode, Out, command
from modellab_async.cli.output import complain, note, show, write_line
from modellab_async.cli.render import run_table
from modellab_async.display import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modellab_async import Run
    from modellab_async.cli.output import Output
    from modellab_async.simulator import Simulator

_UNLIMITED = "none"
_ABSENT = 3
_SAMPLE = 5
_NOT_FOUND = NotFoundError.__name__

app: typer.Typer = typer.Typer()

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
Quota = Annotated[
    str,
    typer.Option(
        "--rate-limit",
        metavar="LIMIT/PERIOD",
        help="Rate limit, as requests/seconds, such as 100/10; or `none`.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the runs and faults.")]


def _simulator(
    *,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Number of runs.")] = 65_614,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 for a free one.")
    ] = 0,
    faults: FaultRate = 0.0,
    rate_limit: Quota = _UNLIMITED,
    latency: Annotated[
        float,
        typer.Option("--latency", metavar="SECONDS", min=0.0, help="Delay of each response."),
    ] = 0.0,
    seed: Seed = None,
) -> Any:
    """A `Simulator` as the options describe it.

    Raises:
        typer.BadParameter: if ``rate_limit`` is neither ``LIMIT/PERIOD`` nor ``none``.
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
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    limit, period = map(int, match.groups()) if match else (0, 0)
    if not (limit and period):
        raise typer.BadParameter(
            f"{text!r} is not LIMIT/PERIOD in whole requests and seconds, such as 100/10",
            param_hint="'--rate-limit'",
        )
    return limit, period


@command(app, "modellab simulate", "modellab simulate --faults 0.1 --rate-limit 100/10 --port 8126")
async def simulate(simulator: Annotated[Any, _simulator]) -> ExitCode:
    """Run a simulated Model Lab on this machine until Ctrl-C.

    Standard output is a shell script that sets the environment to use it.
    """
    try:
        await simulator.start()
    except OSError as error:
        complain(f"cannot listen: {error.strerror or error}")
        return ExitCode.USAGE
    try:
        ids = simulator.run_ids
        note(f"Simulating {len(ids):,} runs at {simulator.base_url} until Ctrl-C. To use them:\n")
        write_line(f"export MODELLAB_BASE_URL={simulator.base_url}")
        write_line(f"export DD_API_KEY={simulator.api_key} DD_APP_KEY={simulator.app_key}")
        write_line("unset DD_BEARER_TOKEN")
        note(f"\nFor instance: modellab runs get {ids[0]} {ids[-1]}")
        await asyncio.Event().wait()
    finally:
        await simulator.close()
    return ExitCode.OK


@command(
    app,
    "modellab demo",
    "modellab demo --runs 10000 --faults 0 --rate-limit none",
    "modellab demo --json | jq .runs_per_second",
)
async def demo(
    *,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Number of runs to fetch.")] = 2_000,
    faults: FaultRate = 0.05,
    rate_limit: Quota = "500/1",
    seed: Seed = None,
    out: Out,
) -> ExitCode:
    """Fetch runs from a simulated Model Lab with faults and a rate limit; needs no account.

    The simulator listens inside this process, on a free port of the loopback interface.
    A few ids that do not exist are requested on purpose.
    """
    simulator = _simulator(runs=runs, faults=faults, rate_limit=rate_limit, seed=seed)
    async with simulator:
        last = simulator.run_ids[-1]
        ids = [*simulator.run_ids, *range(last + 1, last + 1 + _ABSENT)]
        out.remark(
            f"Fetching {len(ids):,} runs from a simulator:"
            f" {faults:.0%} of requests meet a fault, rate limit {rate_limit}.\n"
        )
        figures, sample = await _fetch_all(simulator, ids, out)
    if out.as_json:
        write_line(json.dumps(figures))
    else:
        show(_summary(figures, sample))
    as_promised = figures["one_outcome_each"] and figures["errors"] == {_NOT_FOUND: _ABSENT}
    return ExitCode.OK if as_promised else ExitCode.FAILED


async def _fetch_all(
    simulator: Simulator, ids: list[int], out: Output
) -> tuple[dict[str, Any], list[Run]]:
    """Fetch runs; returns the figures of that, and some of the runs."""
    from modellab_async import ModelLabClient  # noqa: PLC0415 - `--help` needs no aiohttp

    outcomes = Counter[object]()
    errors = Counter[str]()
    sample: list[Run] = []
    async with ModelLabClient(
        base_url=simulator.base_url,
        api_key=simulator.api_key,
        app_key=simulator.app_key,
        hooks=out.activity,
    ) as lab:
        start = time.perf_counter()
        with out.progress(lab, len(ids), after=0, transient=False) as advance:
            async with lab.runs.fetch(ids, route="single", on_progress=advance) as fetched:
                async for outcome in fetched:
                    outcomes[outcome.run_id] += 1
                    if outcome.run is None:
                        errors[type(outcome.error).__name__] += 1
                    elif len(sample) < _SAMPLE:
                        sample.append(outcome.run)
        seconds = time.perf_counter() - start
    figures = {
        "asked": len(ids),
        "outcomes": outcomes.total(),
        "one_outcome_each": outcomes == Counter(ids),
        "ok": outcomes.total() - errors.total(),
        "errors": dict(errors.most_common()),
        "seconds": round(seconds, 3),
        "runs_per_second": round(outcomes.total() / seconds, 1),
        **attrs.asdict(lab.stats),
    }
    return figures, sample


def _summary(figures: dict[str, Any], sample: list[Run]) -> RenderableType:
    """The figures for people, below some of the runs."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(justify="right")
    facts.add_column(style="dim")
    speed = f"runs per second, for {figures['seconds']:.1f} s"
    facts.add_row("speed", f"{figures['runs_per_second']:,.0f}", speed)
    facts.add_row("requests", f"{figures['attempts']:,}", f"{figures['retries']:,} of them retries")
    facts.add_row("waited", duration(figures["rate_limit_wait_s"]), "for the rate limit")
    facts.add_row("", duration(figures["backoff_wait_s"]), "backing off, over all tasks together")
    facts.add_row("outcomes", f"{figures['ok']:,}", "ok")
    for name, count in figures["errors"].items():
        remark = " (these do not exist)" if name == _NOT_FOUND else ""
        facts.add_row("", f"{count:,}", f"{name}{remark}")
    verdict = f"{figures['asked']:,} ids requested, {figures['outcomes']:,} outcomes: "
    if figures["one_outcome_each"]:
        verdict += "exactly one for each."
    else:
        verdict = f"[bold red]{verdict}not one for each.[/]"
    return Group(Padding(run_table(sample), (1, 0)), facts, Padding(verdict, (1, 0, 0, 0)))
