"""What all commands share: options, ids, a client, and what errors mean to a shell."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
import threading
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import attrs
import typer

from modellab_async import (
    ROOT_RUNS,
    AuthenticationError,
    ConfigError,
    InvalidIdError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    RunFilter,
    RunStatus,
    speed,
)
from modellab_async.cli.output import Output, complain
from modellab_async.config import SITES

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from modellab_async import ModelLabClient, Outcome, Run

    Work = Callable[..., Awaitable["ExitCode | None"]]

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


# Options that several commands have


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


def _connection(*, base_url: BaseUrl = None, site: Site = None) -> dict[str, str | None]:
    return {"base_url": base_url, "site": site}


def _output(
    *,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON lines, as when the output is piped, instead of a table."),
    ] = False,
) -> Output:
    """JSON lines on demand, and whenever results do not go to a terminal."""
    return Output(as_json or not sys.stdout.isatty())


def _run_filter(
    *,
    project: Annotated[
        str | None, typer.Option("--project", metavar="ID", help="Only runs of this project.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help=f"Only runs in this status: {', '.join(RunStatus)}.",
            autocompletion=choices(*RunStatus),
        ),
    ] = None,
    owner: Owner = None,
    text: Text = None,
    tag: Tags = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY:VALUE",
            help="Only runs with this parameter; a value such as <0.01 compares; may be repeated.",
        ),
    ] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="ID", help="Only children of this run.")
    ] = None,
    roots: Annotated[bool, typer.Option("--roots", help="Only runs without a parent.")] = False,
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


Lab = Annotated["ModelLabClient", _connection]
Out = Annotated[Output, _output]
Chosen = Annotated[RunFilter, _run_filter]


# Commands


def examples(*lines: str) -> str:
    """The end of a command's help: what to type."""
    return "\n\n".join(["[dim]Examples[/dim]", *(line.replace("[", r"\[") for line in lines)])


def new_group(name: str, summary: str, *lines: str) -> typer.Typer:
    """A group of commands that shows its help, with these examples, when called without one."""
    return typer.Typer(name=name, help=summary, epilog=examples(*lines), no_args_is_help=True)


def command(group: typer.Typer, *lines: str, name: str | None = None) -> Callable[[Work], Work]:
    """Make a coroutine function a command of a group, with these examples.

    Its parameters are options and arguments as Typer knows them. One that is annotated with a
    function, as by `Chosen`, stands for the options that are that function's parameters, and
    receives its result. A command that has ``lab: Lab`` receives an open client, and has
    ``out: Out`` as well, which shows what the client does.
    """

    def register(work: Work) -> Work:
        made: dict[str, Callable[..., Any]] = {}
        options: list[inspect.Parameter] = []
        for parameter in _parameters(work).values():
            notes = getattr(parameter.annotation, "__metadata__", ())
            make = next(filter(inspect.isfunction, notes), None)
            if make is None:
                options.append(parameter)
            else:
                made[parameter.name] = make
                options += _parameters(make).values()

        @functools.wraps(work)
        def run(**given: Any) -> NoReturn:
            for argument, make in made.items():
                given[argument] = make(
                    **{option: given.pop(option) for option in _parameters(make)}
                )
            finish(_call(work, given))

        run.__annotations__ = {option.name: option.annotation for option in options}
        vars(run)["__signature__"] = inspect.Signature(
            [option.replace(kind=option.KEYWORD_ONLY) for option in options]
        )
        group.command(name, epilog=examples(*lines))(run)
        return work

    return register


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function, eval_str=True).parameters


async def _call(work: Work, arguments: dict[str, Any]) -> ExitCode | None:
    """Run a command, with a client if it has `Lab` among its parameters."""
    if "lab" not in arguments:
        return await work(**arguments)
    from modellab_async import ModelLabClient  # noqa: PLC0415 - `--help` needs no aiohttp

    hooks = arguments["out"].activity
    async with ModelLabClient(**arguments.pop("lab"), hooks=hooks) as lab:
        return await work(lab, **arguments)


def finish(work: Coroutine[Any, Any, ExitCode | None]) -> NoReturn:
    """Run a command's work to its end and exit with the code that it returns, 0 for None.

    An error of this package becomes one line on standard error, never a stack trace.
    """
    try:
        code = speed.run(work) or ExitCode.OK
    except ModelLabError as error:
        complain(error)
        code = ExitCode.of(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    finally:
        work.close()  # an interruption may come before it has started
    raise typer.Exit(code)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an argument that the library refuses into an error of the command line."""
    try:
        yield
    except ModelLabError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


@attrs.define
class Tally:
    """Counts what became of many items, complains of each failure, and sums up for the shell."""

    ok: int = 0
    _codes: set[ExitCode] = attrs.field(factory=set, init=False)

    @contextmanager
    def counting(self, label: str) -> Iterator[None]:
        """Count a piece of work as a success, or report its error as by :meth:`failed`."""
        try:
            yield
        except ModelLabError as error:
            self.failed(label, error)
        else:
            self.ok += 1

    def run_of(self, outcome: Outcome) -> Run | None:
        """Count an outcome; return its run, or report its error as by :meth:`failed`."""
        with self.counting(f"run {outcome.run_id}"):
            outcome.unwrap()
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
