"""What an export is to be, what one was, and whether these agree."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the hints
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import attrs
import msgspec

from modellab_async.errors import ConfigError
from modellab_async.frames.columns import Statistic  # noqa: TC001 - msgspec reads the hints
from modellab_async.frames.layout import Shape, wanted_columns
from modellab_async.frames.survey import Guess  # noqa: TC001 - msgspec reads the hints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from modellab_async.models import RunFilter

Format = Literal["jsonl", "csv", "parquet"]
"""JSON lines, comma-separated values, Apache Parquet."""

FORMATS: Final = get_args(Format)
_SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

Task = Literal["all", "since_last", "failed"]
"""What is fetched: everything, what changed since the last export, or what failed in it."""


@attrs.frozen
class Form:
    """What is exported and how: what a file's later exports have to agree in.

    Attributes:
        format: of the file.
        shape: what a row stands for.
        columns: as they were named, or None for all.
        statistic: of metrics named without one.
        filter: what is asked for of runs, by the field's name; None where ids are given.
    """

    format: Format
    shape: Shape
    columns: tuple[str, ...] | None
    statistic: Statistic
    filter: dict[str, Any] | None

    def must_be(self, other: Form, whose: str) -> None:
        """Refuse to go on with what has another form.

        Raises:
            ConfigError: naming the first difference.
        """
        for name in attrs.fields_dict(Form):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ConfigError(
                    f"{whose} was begun with another {name}: {theirs!r}, not {ours!r}"
                )


@attrs.frozen
class Plan:
    """One export that is under way, as it is written down for a process that goes on with it.

    Attributes:
        form: what is exported and how.
        task: what is fetched.
        mark: the newest ``updated_at`` when it began; what changes later is newer.
        since: how far back to go, for ``"since_last"``.
    """

    form: Form
    task: Task
    mark: datetime | None = None
    since: datetime | None = None


@attrs.frozen
class Record:
    """What is remembered of a complete export, beside its file.

    Attributes:
        form: what was exported and how.
        mark: the newest ``updated_at`` when it began.
        columns: the columns it came to have, and what is known of those of params.
        runs: how many runs the file holds.
        fetched: how many of them were fetched by the last export.
        failed: how many could not be fetched, and are named in the side file.
        unlisted: how many rows are of runs that the listing no longer counts; None where unknown.
    """

    form: Form
    mark: datetime | None
    columns: dict[str, Guess | None]
    runs: int
    fetched: int
    failed: int
    unlisted: int | None = None


def form_of(
    path: Path,
    *,
    format: Format | None,  # noqa: A002 - the option's own name
    shape: Shape,
    columns: Iterable[str] | None,
    statistic: Statistic,
    filter: RunFilter | None,  # noqa: A002 - the API's own name
) -> Form:
    """The form that options describe; the format is that of the path's suffix by default.

    Raises:
        ConfigError: for a path whose suffix says nothing.
        TypeError: for a lone string as columns.
        ValueError: for an unknown format, shape, statistic or column.
    """
    if format is None:
        format = _SUFFIXES.get(path.suffix.lower())  # noqa: A001
        if format is None:
            raise ConfigError(
                f"{path.name!r} does not say what to write:"
                f" end it in {', '.join(_SUFFIXES)}, or give a format"
            )
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    names = columns if columns is None or isinstance(columns, str) else tuple(columns)
    wanted_columns(names, statistic, shape)
    assert not isinstance(names, str)
    chosen = None if filter is None else _plain(filter)
    return Form(format, shape, names, statistic, chosen)


def _plain(chosen: RunFilter) -> dict[str, Any]:
    """A filter as JSON would give it back, without what is not asked for."""
    values = attrs.asdict(
        chosen,
        filter=lambda _, value: value is not None,
        value_serializer=lambda _instance, _field, value: (
            value.value if isinstance(value, Enum) else value
        ),
    )
    return msgspec.json.decode(msgspec.json.encode(values))  # type: ignore[no-any-return]
