"""Options that say which runs or projects are listed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from modellab_async import ROOT_RUNS, ConfigError, ModelLabError, RunFilter, RunStatus
from modellab_async.cli.common import choices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Owner = Annotated[
    str | None, typer.Option("--owner", metavar="UUID", help="Only those of this owner.")
]
Text = Annotated[
    str | None, typer.Option("--text", help="Only those with this in their name or description.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY:VALUE", help="Only those with this tag; may be repeated."),
]
Project = Annotated[
    str | None, typer.Option("--project", metavar="ID", help="Only runs of this project.")
]
Status = Annotated[
    str | None,
    typer.Option(
        "--status",
        help=f"Only runs in this status: {', '.join(RunStatus)}.",
        autocompletion=choices(*RunStatus),
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="KEY:VALUE",
        help="Only runs with this parameter; a value such as <0.01 compares; may be repeated.",
    ),
]
Parent = Annotated[
    str | None, typer.Option("--parent", metavar="ID", help="Only children of this run.")
]
Roots = Annotated[bool, typer.Option("--roots", help="Only runs without a parent.")]


def run_filter(
    *,
    project: Project = None,
    status: Status = None,
    owner: Owner = None,
    text: Text = None,
    tag: Tags = None,
    param: Params = None,
    parent: Parent = None,
    roots: Roots = False,
) -> RunFilter:
    """The filter that the options describe.

    Raises:
        typer.BadParameter: for options that are not of their form, that exclude each other, or
            that the API does not support.
    """
    tags, params = pairs(tag, "--tag"), pairs(param, "--param")
    if roots and parent is not None:
        raise typer.BadParameter("--parent and --roots exclude each other")
    try:
        return RunFilter(
            text=text,
            owner_id=owner,
            status=status,
            project_id=project,
            tags=tags,
            params=params,
            parent_run_id=ROOT_RUNS if roots else parent,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an argument that the library refuses into an error of the command line."""
    try:
        yield
    except ModelLabError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str] | None:
    """What ``KEY:VALUE`` options say together.

    Raises:
        typer.BadParameter: if one has no colon or no key, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, colon, value = text.partition(":")
        if not (key and colon):
            raise typer.BadParameter(f"{text!r} is not KEY:VALUE", param_hint=f"'{option}'")
        if key in found:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=f"'{option}'")
        found[key] = value
    return found or None
