"""Options that say which runs or projects a listing gives."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from modellab_async import ConfigError, ModelLabError

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
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="How many to give at most. By default all as JSON lines, 50 in a table.",
    ),
]


@contextmanager
def refusals() -> Iterator[None]:
    """Make of what the library refuses as an argument an error of the command line."""
    try:
        yield
    except ModelLabError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str] | None:
    """What ``KEY:VALUE`` options say together.

    Raises:
        typer.BadParameter: where one has no colon or no key, or a key comes twice.
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
