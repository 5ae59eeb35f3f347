"""``modellab projects``: list and show projects."""

from __future__ import annotations

from typing import Annotated

import typer

from modellab_async import ProjectFilter
from modellab_async.cli.common import (
    ExitCode,
    Lab,
    Limit,
    Out,
    Owner,
    Tags,
    Tally,
    Text,
    command,
    each_id,
    new_group,
    pairs,
    refusals,
    sort_choices,
)
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
    lab: Lab,
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
    out: Out,
) -> None:
    """List projects."""
    with refusals():
        pager = lab.projects.list(
            ProjectFilter(text=text, owner_id=owner, tags=pairs(tag, "--tag")),
            sort=sort,
            page_size=out.page_size(limit),
        )
    await out.show_listing(lab, pager, project_table, unit="projects", limit=limit)


@command(app, "modellab projects get 2387")
async def get(
    lab: Lab,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Project ids; `-` reads them from standard input."),
    ],
    *,
    out: Out,
) -> ExitCode:
    """Fetch projects by id, one after another."""
    tally = Tally()
    with out.items(project_table) as add:
        async for project_id in each_id(ids):
            with tally.counting(f"project {project_id}"):
                add(await lab.projects.get(project_id))
    return tally.exit_code
