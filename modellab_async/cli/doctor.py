"""``modellab doctor``: whether keys, site, clock and network are as they must be."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from modellab_async.cli.checks import Examination
from modellab_async.cli.common import BaseUrl, ExitCode, Json, Site, examples, finish
from modellab_async.cli.output import wants_json, write_line
from modellab_async.cli.render import stdout
from modellab_async.display import clean

if TYPE_CHECKING:
    from modellab_async.cli.checks import Finding

_MARKS = {"ok": ("✓", "green"), "wrong": ("✗", "bold red"), "skipped": ("-", "dim")}

app: typer.Typer = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "modellab doctor",
        "modellab doctor --site eu1",
        "modellab doctor --json | jq -r 'select(.result == \"wrong\").advice'",
    )
)
def doctor(*, as_json: Json = False, base_url: BaseUrl = None, site: Site = None) -> NoReturn:
    """Check keys, site, network and clock; say what is wrong, and what to do about it.

    One request is sent, for a single project. No key or password is ever shown. The exit code is
    0 when all is well, 2 for settings that cannot work, 3 for keys that are refused, 4 where
    there is no such API, else 1.
    """
    as_json = wants_json(as_json)

    async def work() -> ExitCode:
        code = ExitCode.OK
        async for finding in Examination(os.environ, base_url, site).findings():
            _show(finding, as_json=as_json)
            code = code or finding.code
        return code

    finish(work())


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        parts = {name: getattr(finding, name) for name in ("check", "result", "said", "advice")}
        write_line(json.dumps(parts))
        return
    mark, style = _MARKS[finding.result]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1, style=style)
    row.add_column(width=6, style="bold" if finding.result == "wrong" else "dim")
    row.add_column(overflow="fold")
    row.add_row(mark, finding.check, Text(clean(finding.said)))
    if finding.advice:
        row.add_row("", "", Text(finding.advice, style="yellow"))
    stdout().print(row)
