"""The command line: one file per group of commands, put together here.

common.py    options, exit codes, ids from arguments or standard input
output.py    results: JSON lines or a table
render.py    how things look on a terminal
progress.py  live progress
filters.py   options of listings
listing.py   listings, as far as they are asked for
checks.py    what `modellab doctor` looks at
runs.py, compare.py, export.py, projects.py, artifacts.py, doctor.py, demo.py, simulate.py
             the commands
"""

from __future__ import annotations

from typing import Annotated

import typer

from modellab_async._version import __version__
from modellab_async.cli import artifacts, compare, demo, doctor, export, projects, runs, simulate
from modellab_async.cli.common import examples
from modellab_async.cli.output import write_line

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    name="modellab",
    help="Look after Datadog Model Lab runs: many at a time, within the rate limit.\n\n"
    "Keys come from the environment only: DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN.",
    epilog=examples(
        "modellab demo",
        "modellab runs get 70158 71354",
        "modellab runs get 70158 --json | jq .attributes.status",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
runs.app.add_typer(compare.app)
runs.app.command(epilog=export.EXAMPLES)(export.export)
for _group in (runs.app, projects.app, artifacts.app, doctor.app, demo.app, simulate.app):
    app.add_typer(_group)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        write_line(f"modellab {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass
