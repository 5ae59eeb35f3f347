"""HTML of models for notebooks, from the Jinja templates in ``templates``, which escape by default.

Colours are those of the notebook's own theme, or readable on light and dark alike; if styles are
stripped, plain tables remain. This module imports no model: models import it.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from modellab_async.display import (
    NOTHING,
    STATISTICS,
    clean,
    common_metrics,
    duration,
    moment,
    number,
    shares,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2

_METRICS: Final = 3
"""How many metrics a table of runs shows."""

_LONGEST: Final = 300
"""Characters of a text that are shown; a param may hold a whole program."""


def render(template: str, **values: object) -> str | None:
    """A template as HTML; None without Jinja, so that a notebook shows the object's repr."""
    if find_spec("jinja2") is None:
        return None
    return _environment().get_template(f"{template}.html").render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - only notebooks need it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modellab_async"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        text=_text,
        clean=clean,
        duration=duration,
        moment=moment,
        number=number,
        size=_size,
        with_shares=_with_shares,
        with_metrics=_with_metrics,
        common_metrics=functools.partial(common_metrics, most=_METRICS),
    )
    environment.globals.update(NOTHING=NOTHING, STATISTICS=STATISTICS)
    return environment


def _text(value: object) -> str:
    """Text from outside on one line, and not too long."""
    text = clean("" if value is None else str(value))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _size(size: int | None) -> str:
    return NOTHING if size is None else f"{size:,}"


def _with_shares(values: Sequence[float | None]) -> list[tuple[Any, Any]]:
    """Each value with its share of the largest, for a bar."""
    return list(zip(values, shares(values), strict=True))


def _with_metrics(runs: Sequence[Any], keys: Sequence[str]) -> list[tuple[Any, Any]]:
    """Each run with its latest value of each metric, and that value's share of the largest."""
    found = [[run.metric(key) for run in runs] for key in keys]
    columns = [_with_shares([each and each.latest for each in column]) for column in found]
    return [(run, [column[row] for column in columns]) for row, run in enumerate(runs)]
