"""Results on standard output, for a program or a person, and progress for a person."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import attrs

from modellab_async import large_results, to_json
from modellab_async.cli.progress import live_progress
from modellab_async.cli.render import stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from modellab_async import ModelLabClient
    from modellab_async.cli.progress import Show

ItemT = TypeVar("ItemT")


def wants_json(flag: bool) -> bool:  # noqa: FBT001 - the option's own value
    """Whether output is JSON lines: on demand, and whenever nobody is looking at a terminal."""
    return flag or not sys.stdout.isatty()


def is_watched(*, as_json: bool) -> bool:
    """Whether progress has a terminal to itself: not where JSON lines go to the same one."""
    return sys.stderr.isatty() and not (as_json and sys.stdout.isatty())


@contextmanager
def progress_of(
    lab: ModelLabClient,
    total: int | None,
    *,
    as_json: bool,
    unit: str = "runs",
    after: float = 0.3,
    transient: bool = True,
) -> Iterator[Show]:
    """Show progress where somebody watches and it takes a while, see `live_progress`."""
    if not is_watched(as_json=as_json):
        yield lambda _done, _total: None
        return
    with live_progress(lab, total, unit=unit, after=after, transient=transient) as show:
        yield show


def write_line(text: str) -> None:
    """Write one line of results at once, in UTF-8: its reader is a program, at work already."""
    sys.stdout.buffer.write(f"{text}\n".encode())
    sys.stdout.buffer.flush()


@attrs.define
class Output(Generic[ItemT]):
    """Where a command puts its items, as a context manager.

    JSON lines go out as items come. A table waits for the end, which may be an error or an
    interruption: what was fetched until then is shown.
    """

    as_json: bool
    _render: Callable[[Sequence[ItemT]], RenderableType]
    _dump: Callable[[ItemT], str] = to_json
    _items: list[ItemT] = attrs.field(factory=list, init=False)
    _keeping: ExitStack = attrs.field(factory=ExitStack, init=False)

    def add(self, item: ItemT) -> None:
        """Show an item, now or in the table."""
        if self.as_json:
            write_line(self._dump(item))
        else:
            self._items.append(item)

    def __enter__(self) -> Self:
        if not self.as_json:
            self._keeping.enter_context(large_results())
        return self

    def __exit__(self, *_: object) -> None:
        with self._keeping:
            if self._items:
                stdout().print(self._render(self._items))
