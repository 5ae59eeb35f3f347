"""The command line: one file for each group of commands, put together here.

common.py    options, ids, exit codes, what errors mean to a shell, a client for a command
output.py    results as tables or JSON lines, progress, remarks
render.py    how things look on a terminal
runs.py, projects.py, artifacts.py, store.py, doctor.py, simulate.py
             the commands
"""

from __future__ import annotations

from typing import Annotated

import typer

from modellab_async._version import __version__
from modellab_async.cli import artifacts, doctor, projects, runs, simulate, store
from modellab_async.cli.common import examples
from modellab_async.cli.output import write_line

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    name="modellab",
    help="Work with Datadog Model Lab runs: many at a time, within the rate limit.\n\n"
    "Keys come from the environment only: DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN.",
    epilog=examples(
        "modellab demo",
        "modellab runs get 70158 71354",
        "modellab runs get 70158 --json | jq .attributes.status",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _group in (runs.app, projects.app, artifacts.app, store.app, doctor.app, simulate.app):
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
