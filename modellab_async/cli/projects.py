"""``modellab projects``: list and show projects."""

from __future__ import annotations

from typing import Annotated

import typer

from modellab_async import ModelLabClient, ModelLabError, ProjectFilter
from modellab_async.cli.common import (
    ExitCode,
    Limit,
    Tally,
    command,
    each_id,
    new_group,
    sort_choices,
)
from modellab_async.cli.filters import Owner, Tags, Text, pairs, refusals
from modellab_async.cli.output import Output, page_size, show_listing
from modellab_async.cli.render import project_table
from modellab_async.endpoints import PROJECT_SORT_FIELDS

app: typer.Typer = new_group(
    "projects", "List and show projects.", "modellab projects list --text ranking"
)


@command(
    app,
    "modellab projects list",
    "modellab projects list --text ranking --sort -updated_at",
    "modellab projects list --json | jq -r .attributes.name",
    name="list",
)
async def list_projects(
    lab: ModelLabClient,
    *,
    text: Text = None,
    owner: Owner = None,
    tag: Tags = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="name, created_at or updated_at; with a leading -, descending.",
            autocompletion=sort_choices(*PROJECT_SORT_FIELDS),
        ),
    ] = None,
    limit: Limit = None,
    as_json: bool,
) -> ExitCode:
    """List projects."""
    with refusals():
        pager = lab.projects.list(
            ProjectFilter(text=text, owner_id=owner, tags=pairs(tag, "--tag")),
            sort=sort,
            page_size=page_size(limit, as_json=as_json),
        )
    await show_listing(lab, pager, project_table, unit="projects", limit=limit, as_json=as_json)
    return ExitCode.OK


@command(app, "modellab projects get 2387")
async def get(
    lab: ModelLabClient,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Project ids; `-` reads them from standard input."),
    ],
    *,
    as_json: bool,
) -> ExitCode:
    """Fetch projects by id, one after another."""
    tally = Tally()
    with Output(as_json, project_table) as output:
        async for project_id in each_id(ids):
            try:
                output.add(await lab.projects.get(project_id))
                tally.ok += 1
            except ModelLabError as error:
                tally.failed(f"project {project_id}", error)
    return tally.exit_code
