"""How values look to a person, on a terminal or in a notebook."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from modellab_async.clock import in_utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOTHING: Final = "-"
STATISTICS: Final = ("latest", "min", "max", "mean")


def clean(text: str) -> str:
    """``text`` on one line and without control or bidi characters, which could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_json(text: str) -> str:
    r"""JSON in which whatever could steer a terminal is escaped, such as ``\u202e``.

    Outside its strings JSON has printable characters and line breaks only, so it stays the same
    JSON; ``text`` must have no line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2] for at in range(0, len(units), 2))
    return "".join(f"\\u{int.from_bytes(pair, 'big'):04x}" for pair in pairs)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``12.3 s``, ``3 m 04 s``, ``1 h 02 m``, ``2 d 03 h``."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3_600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600:02} h"


def moment(when: datetime | None) -> str:
    """A time to the minute, in UTC; the first or last one that there is if it is beyond that."""
    if when is None:
        return NOTHING
    return f"{in_utc(when).replace(tzinfo=None).isoformat(' ', 'minutes')}Z"


def number(value: float | None) -> str:
    """A measurement to four significant digits."""
    return NOTHING if value is None else f"{value:.4g}"


def common_metrics(runs: Iterable[Any], most: int) -> list[str]:
    """The names of the metrics that most runs have, the commonest first."""
    keys = Counter(metric.key for run in runs for metric in run.metric_summaries)
    return [key for key, _ in keys.most_common(most)]


def shares(values: Sequence[float | None]) -> list[float | None]:
    """Each value's magnitude as a share of the largest, 0 to 1, to draw bars by.

    None is a value that is absent or not finite.
    """
    sizes = [None if v is None or not math.isfinite(v) else abs(v) for v in values]
    largest = max((size for size in sizes if size), default=1.0)
    return [None if size is None else size / largest for size in sizes]
