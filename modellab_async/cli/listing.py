"""Listings to standard output, as far as they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from modellab_async.cli.common import ExitCode, note
from modellab_async.cli.output import Output, is_watched, progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from modellab_async import ModelLabClient, Pager, Project, Run

ItemT = TypeVar("ItemT", "Run", "Project")

_IN_A_TABLE: Final = 50
_PAGE: Final = 100


def page_size(limit: int | None, *, as_json: bool) -> int:
    """How many items to ask for at once."""
    return min(_most(limit, as_json=as_json) or _PAGE, _PAGE)


async def show_listing(
    lab: ModelLabClient,
    pager: Pager[ItemT],
    render: Callable[[Sequence[ItemT]], RenderableType],
    *,
    unit: str,
    limit: int | None,
    as_json: bool,
) -> ExitCode:
    """Give up to ``limit`` items of a pager that asks for `page_size` at once."""
    most = _most(limit, as_json=as_json)
    given, total = 0, None
    with (
        Output(as_json, render) as output,
        progress_of(lab, most, as_json=as_json, unit=unit) as show,
    ):
        if most is not None and most <= _PAGE:
            page = await pager
            total = page.total
            for item in page.items[:most]:
                output.add(item)
                given += 1
        else:
            async with pager.pages() as pages:
                async for page in pages:
                    total = page.total
                    for item in page.items[: None if most is None else most - given]:
                        output.add(item)
                        given += 1
                    show(given, _least(most, total))
                    if given == most:
                        break
    if is_watched(as_json=as_json):
        if not given:
            note(f"No {unit}.")
        elif limit is None and total is not None and given < total:
            note(f"{given:,} of {total:,} {unit}; --limit gives more.")
    if pager.complete is False:
        note(f"Some {unit} may be missing: the listing kept changing while it was read.")
    return ExitCode.OK


def _most(limit: int | None, *, as_json: bool) -> int | None:
    return _IN_A_TABLE if limit is None and not as_json else limit


def _least(most: int | None, total: int | None) -> int | None:
    return min((count for count in (most, total) if count is not None), default=None)
