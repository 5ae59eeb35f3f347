"""What all commands share: options, ids, a client, and what errors mean to a shell."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import attrs
import typer

from modellab_async import (
    AuthenticationError,
    ConfigError,
    InvalidIdError,
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    speed,
)
from modellab_async.cli.output import ACTIVITY, Activity, complain, wants_json
from modellab_async.config import SITES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping

    from modellab_async import Outcome, Run

    Work = Callable[..., Awaitable["ExitCode"]]

_CHUNK = 65_536
_CHUNKS_AHEAD = 4


class ExitCode(IntEnum):
    """What a command tells the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_AUTHORISED = 3
    NOT_FOUND = 4
    INTERRUPTED = 130

    @classmethod
    def of(cls, error: ModelLabError) -> ExitCode:
        """The code of a command that ends with ``error``."""
        match error:
            case ConfigError() | InvalidIdError():
                return cls.USAGE
            case AuthenticationError() | PermissionDeniedError():
                return cls.NOT_AUTHORISED
            case NotFoundError():
                return cls.NOT_FOUND
            case _:
                return cls.FAILED


def choices(*words: str) -> Callable[[str], list[str]]:
    """Completes an option's value from words that are known, though others may be given."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def sort_choices(*fields: str) -> Callable[[str], list[str]]:
    """Completes a field to sort by, either way."""
    return choices(*fields, *(f"-{field}" for field in fields))


BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="Address of the API, such as that of `modellab simulate`."
        " By default MODELLAB_BASE_URL, else the site's address.",
        rich_help_panel="Connection",
    ),
]
Site = Annotated[
    str | None,
    typer.Option(
        "--site",
        metavar="SITE",
        help="Datadog site: datadoghq.eu, eu1 or a pasted address."
        " By default DD_SITE, else datadoghq.com.",
        autocompletion=choices(*SITES),
        rich_help_panel="Connection",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="JSON lines, as when the output is piped, instead of a table."),
]
RunIds = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="Run ids; `-` reads them from standard input."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="How many to show at most. By default all as JSON lines, 50 in a table.",
    ),
]


def examples(*lines: str) -> str:
    """The end of a command's help: what to type."""
    return "\n\n".join(["[dim]Examples[/dim]", *(line.replace("[", r"\[") for line in lines)])


def new_group(name: str, summary: str, *lines: str) -> typer.Typer:
    """A group of commands that shows its help, with these examples, when called without one."""
    return typer.Typer(
        name=name,
        help=summary,
        epilog=examples(*lines),
        no_args_is_help=True,
        rich_markup_mode="rich",
    )


def command(
    group: typer.Typer,
    *lines: str,
    name: str | None = None,
    choosing: Callable[..., object] | None = None,
) -> Callable[[Work], Work]:
    """Make a coroutine function a command of a group, with these examples.

    The function gets a client as ``lab``, and as ``as_json`` whether its output is JSON lines; its
    other parameters are options and arguments as Typer knows them. The command has ``--json`` and
    the options of the connection besides, and the parameters of ``choosing``, if that is given:
    the function gets its result as ``chosen``.
    """

    def register(work: Work) -> Work:
        own = _parameters(work)
        choice = {} if choosing is None else _parameters(choosing)
        options = [
            *(own[name] for name in own if name not in {"lab", "as_json", "chosen"}),
            *choice.values(),
            *_parameters(_shared_options).values(),
        ]

        @functools.wraps(work)
        def run(*, as_json: bool, base_url: str | None, site: str | None, **given: object) -> None:
            if choosing is not None:
                given["chosen"] = choosing(**{name: given.pop(name) for name in choice})
            finish_with_client(
                lambda lab: work(lab, **given, as_json=wants_json(as_json)),
                base_url=base_url,
                site=site,
            )

        vars(run)["__signature__"] = inspect.Signature(options)
        group.command(name, epilog=examples(*lines))(run)
        return work

    return register


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function, eval_str=True).parameters


def _shared_options(*, as_json: Json = False, base_url: BaseUrl = None, site: Site = None) -> None:
    """Those of every command that has a client."""


def finish(work: Coroutine[Any, Any, ExitCode]) -> NoReturn:
    """Run a command's work to its end and exit with the code that it returns.

    An error of this package becomes one line on standard error, never a stack trace.
    """

    async def observed() -> ExitCode:
        ACTIVITY.set(Activity())
        return await work

    try:
        code = speed.run(observed())
    except ModelLabError as error:
        complain(error)
        code = ExitCode.of(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    raise typer.Exit(code)


def finish_with_client(
    work: Callable[[ModelLabClient], Awaitable[ExitCode]],
    *,
    base_url: str | None,
    site: str | None,
) -> NoReturn:
    """Like `finish`, for work that needs a client. Keys come from the environment only."""

    async def with_client() -> ExitCode:
        async with ModelLabClient(base_url=base_url, site=site, hooks=ACTIVITY.get()) as lab:
            return await work(lab)

    finish(with_client())


@attrs.define
class Tally:
    """Counts what became of many items, complains of each failure, and sums up for the shell."""

    ok: int = 0
    _codes: set[ExitCode] = attrs.field(factory=set, init=False)

    def run_of(self, outcome: Outcome) -> Run | None:
        """Count an outcome; return its run, or report its error as by :meth:`failed`."""
        if outcome.error is not None:
            self.failed(f"run {outcome.run_id}", outcome.error)
        else:
            self.ok += 1
        return outcome.run

    def failed(self, label: object, error: ModelLabError) -> None:
        """Count and report a failure.

        Keys that are refused before anything has succeeded end the command at once, since
        every other item would fail alike.
        """
        code = ExitCode.of(error)
        if code is ExitCode.NOT_AUTHORISED and not self.ok:
            raise error
        self._codes.add(code)
        complain(f"{label}: {error}")

    @property
    def exit_code(self) -> ExitCode:
        """OK; the code of all failures if nothing succeeded and they are alike; else FAILED."""
        if not self._codes:
            return ExitCode.OK
        if self.ok or len(self._codes) > 1:
            return ExitCode.FAILED
        return next(iter(self._codes))


def count_of(ids: list[str]) -> int | None:
    """How many ids there are; None if some of them come from standard input."""
    return None if "-" in ids else len(ids)


async def each_id(arguments: Iterable[str]) -> AsyncIterator[str]:
    """The ids named on the command line, with ``-`` for those on standard input."""
    for argument in arguments:
        if argument == "-":
            async for word in _stdin_words():
                yield word
        else:
            yield argument


async def _stdin_words() -> AsyncIterator[str]:
    """The words on standard input, as they arrive.

    A daemon thread reads, a few chunks ahead: a slow producer does not stop the event loop, and
    a read that never returns does not outlive an interruption.
    """
    loop = asyncio.get_running_loop()
    chunks = asyncio.Queue[bytes]()
    ahead = threading.Semaphore(_CHUNKS_AHEAD)

    def read() -> None:
        chunk = b"more"
        while chunk:
            ahead.acquire()
            try:
                chunk = os.read(0, _CHUNK)
            except OSError:
                chunk = b""
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is closed: nobody waits for them any more
                return

    threading.Thread(target=read, name="stdin", daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        ahead.release()
        text = rest + chunk
        words = text.split()
        rest = b"" if text[-1:].isspace() else words.pop()
        for word in words:
            yield word.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")
