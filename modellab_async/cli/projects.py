"""``modellab projects``: look at projects."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from modellab_async import ModelLabClient, ModelLabError, ProjectFilter
from modellab_async.cli.common import (
    BaseUrl,
    ExitCode,
    Json,
    Site,
    Tally,
    choices,
    each_id,
    examples,
    finish_with_client,
    new_group,
)
from modellab_async.cli.filters import Limit, Owner, Tags, Text, pairs, refusals
from modellab_async.cli.listing import page_size, show_listing
from modellab_async.cli.output import Output, wants_json
from modellab_async.cli.render import project_table
from modellab_async.endpoints import PROJECT_SORT_FIELDS

app: typer.Typer = new_group(
    "projects", "Look at projects.", "modellab projects list --text ranking"
)


@app.command(
    "list",
    epilog=examples(
        "modellab projects list",
        "modellab projects list --text ranking --sort -updated_at",
        "modellab projects list --json | jq -r .attributes.name",
    ),
)
def list_projects(
    *,
    text: Text = None,
    owner: Owner = None,
    tag: Tags = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="name, created_at or updated_at; -name and so on descend.",
            autocompletion=choices(*PROJECT_SORT_FIELDS),
        ),
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """List projects."""
    as_json = wants_json(as_json)
    tags = pairs(tag, "--tag")

    async def work(lab: ModelLabClient) -> ExitCode:
        with refusals():
            pager = lab.projects.list(
                ProjectFilter(text=text, owner_id=owner, tags=tags),
                sort=sort,
                page_size=page_size(limit, as_json=as_json),
            )
        return await show_listing(
            lab, pager, project_table, unit="projects", limit=limit, as_json=as_json
        )

    finish_with_client(work, base_url=base_url, site=site)


@app.command(epilog=examples("modellab projects get 2387"))
def get(
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Project ids; `-` reads them from standard input."),
    ],
    *,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Fetch projects by id, one after another."""
    as_json = wants_json(as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        tally = Tally()
        with Output(as_json, project_table) as output:
            async for project_id in each_id(ids):
                try:
                    output.add(await lab.projects.get(project_id))
                    tally.ok += 1
                except ModelLabError as error:
                    tally.failed(f"project {project_id}", error)
        return tally.exit_code

    finish_with_client(work, base_url=base_url, site=site)
