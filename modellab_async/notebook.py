"""Runs, pages of them and comparisons as HTML, for notebooks.

All text from outside is escaped. Colours are those of the notebook's own theme, or readable on
light and dark alike; where styles are stripped, plain tables remain.

Models import this module when a notebook asks for HTML, so it imports none of them.
"""

from __future__ import annotations

from html import escape
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
    from collections.abc import Callable, Iterable, Mapping, Sequence

_STYLE: Final = """<style>
.modellab{color:inherit;font-size:13px;line-height:1.5;overflow-x:auto}
.modellab table{border-collapse:collapse;border:0;margin:.4em 0;color:inherit}
.modellab summary,.modellab p{margin:.4em 0;cursor:default}
.modellab tr,.modellab th,.modellab td{background:transparent;color:inherit}
.modellab th,.modellab td{border:0;padding:.1em 1.2em .1em 0;text-align:left;
vertical-align:top;white-space:nowrap}
.modellab .x{min-width:8em;max-width:32em;white-space:normal;overflow-wrap:anywhere}
.modellab .w{min-width:18em}
.modellab thead th,.modellab .t{border-bottom:1px solid #8a8f98;font-weight:600}
.modellab .t{padding-top:.9em}
.modellab tbody th{font-weight:400;opacity:.75}
.modellab .n{text-align:right;font-variant-numeric:tabular-nums}
.modellab .b{display:inline-block;width:4em;margin-left:.6em;text-align:left}
.modellab .b i{display:inline-block;height:.6em;background:#4c8bf5}
.modellab .b .m{background:#e0723c}
.modellab .s::before{content:"\\25cf";margin-right:.4em;color:#8a8f98}
.modellab .s-completed::before{color:#2e9e5b}
.modellab .s-running::before{color:#4c8bf5}
.modellab .s-failed::before{color:#d9534f}
.modellab .s-killed::before,.modellab .s-unresponsive::before{color:#c98a1b}
</style>"""

_METRICS: Final = 3
"""How many metrics a page of runs shows."""

_LONGEST: Final = 300
"""Characters of a text that are shown; a param may hold a whole program."""


def run_html(run: Any) -> str:
    """One run: its facts, metrics and params."""
    facts = {
        "project": str(run.project_id),
        "owner": _text(run.owner_id),
        "created": moment(run.created_at),
        "started": moment(run.started_at),
        "completed": moment(run.completed_at),
        "deleted": moment(run.deleted_at),
        "duration": duration(run.duration),
        "tags": _tags(run.tags),
        "link": _link(run.external_url or ""),
        "about": _text(run.description),
    }
    metrics = [
        _row(
            metric.key,
            _cell(f"{metric.count:,}", "n"),
            *(_cell(number(getattr(metric, name)), "n") for name in STATISTICS),
        )
        for metric in run.metric_summaries
    ]
    params = [_row(param.key, _wide(_text(param.value))) for param in run.params]
    return _whole(
        f"<p><strong>{run.id} {_text(run.name)}</strong> {_status(run.status)}</p>",
        _table(
            [],
            [_row(name, _wide(fact)) for name, fact in facts.items() if fact not in {"", NOTHING}],
        ),
        _table([_head("metric"), *(_head(name, "n") for name in ("values", *STATISTICS))], metrics),
        _folded(params, f"{len(params):,} params"),
    )


def page_html(page: Any) -> str:
    """A page of runs or projects: a row each; of runs with the metrics that most of them have."""
    items = page.items
    columns = [name for name in _COLUMNS if all(hasattr(item, name) for item in items)]
    metrics = common_metrics(items, _METRICS) if "status" in columns else []
    measured = [_measured([_latest(item, key) for item in items]) for key in metrics]
    rows = [
        _row(
            str(item.id),
            *(_COLUMNS[name](getattr(item, name)) for name in columns),
            *(cells[position] for cells in measured),
        )
        for position, item in enumerate(items)
    ]
    heads = [_head(name.removesuffix("_id").removesuffix("_at")) for name in ("id", *columns)]
    total = "" if page.total is None else f" of {page.total:,}"
    return _whole(
        f"<p>{len(items):,}{total}</p>",
        _table([*heads, *(_head(key, "n") for key in metrics)], rows),
    )


def comparison_html(comparison: Any) -> str:
    """Runs as columns: where they stand, their metrics with bars, the params that differ."""
    runs = comparison.runs
    facts = [
        _row("status", *(_cell(_status(run.status)) for run in runs)),
        _row("created", *(_cell(moment(run.created_at)) for run in runs)),
        _row("duration", *(_cell(duration(run.duration)) for run in runs)),
    ]
    metrics = [_row(row.key, *_measured(row.values)) for row in comparison.metrics]
    params = [
        _row(row.key, *(_wide(NOTHING if value is None else _text(value)) for value in row.values))
        for row in comparison.params
    ]
    same = [_row(row.key, _wide(_text(row.values[0]))) for row in comparison.same_params]
    return _whole(
        _table(
            [_head("run"), *(_head(f"{run.id} {run.name}") for run in runs)],
            facts,
            *(
                [_title(title, len(runs) + 1), *rows]
                for title, rows in (
                    (f"metrics, {comparison.statistic}", metrics),
                    ("params that differ", params),
                )
                if rows
            ),
        ),
        _folded(same, f"{len(same):,} params the same in all"),
    )


def _whole(*parts: str) -> str:
    return f'{_STYLE}<div class="modellab">{"".join(parts)}</div>'


def _table(heads: Sequence[str], *bodies: Sequence[str]) -> str:
    """A table of rows in groups; nothing where there is no row."""
    if not any(bodies):
        return ""
    head = f"<thead><tr>{''.join(heads)}</tr></thead>" if heads else ""
    groups = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies)
    return f"<table>{head}{groups}</table>"


def _folded(params: Sequence[str], summary: str) -> str:
    """A table of params that opens on demand."""
    if not params:
        return ""
    table = _table([_head("param"), _head("value")], params)
    return f"<details><summary>{summary}</summary>{table}</details>"


def _head(text: str, css: str = "") -> str:
    return f'<th scope="col" class="{css}">{_text(text)}</th>'


def _title(text: str, columns: int) -> str:
    return f'<tr><th class="t" scope="rowgroup" colspan="{columns}">{_text(text)}</th></tr>'


def _row(name: str, *cells: str) -> str:
    return f'<tr><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>'


def _cell(html: str, css: str = "") -> str:
    return f'<td class="{css}">{html}</td>'


def _wide(html: str) -> str:
    """A cell whose text may break."""
    return _cell(html, "x")


def _measured(values: Sequence[float | None]) -> list[str]:
    """A cell for each value, with a bar; a negative value's bar has another colour."""
    cells: list[str] = []
    for value, share in zip(values, shares(values), strict=True):
        css = "m" if value is not None and value < 0 else ""
        bar = f'<i class="{css}" style="width:{share:.0%}"></i>' if share is not None else ""
        cells.append(_cell(f'{number(value)}<span class="b" aria-hidden="true">{bar}</span>', "n"))
    return cells


def _text(value: str | None) -> str:
    """Text from outside: on one line, not too long, and never markup."""
    text = clean(value or "")
    return escape(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def _status(status: str) -> str:
    known = status if status.isascii() and status.isalpha() else "unknown"
    return f'<span class="s s-{known}">{_text(status)}</span>'


def _tags(tags: Iterable[Any]) -> str:
    return _text(", ".join(f"{tag.key}:{tag.value}" for tag in tags))


def _link(url: str) -> str:
    """A web address as a link; any other, such as ``javascript:``, as text."""
    if not url.startswith(("https://", "http://")):
        return _text(url)
    address = escape(clean(url))
    return f'<a href="{address}" target="_blank" rel="noopener noreferrer">{_text(url)}</a>'


def _latest(run: Any, key: str) -> float | None:
    metric = run.metric(key)
    return metric.latest if metric else None


_COLUMNS: Final[Mapping[str, Callable[[Any], str]]] = {
    "name": lambda name: _wide(_text(name)),
    "status": lambda status: _cell(_status(status)),
    "project_id": lambda project_id: _cell(str(project_id)),
    "duration": lambda seconds: _cell(duration(seconds)),
    "created_at": lambda when: _cell(moment(when)),
    "tags": lambda tags: _cell(_tags(tags), "x w"),
}
"""The cells that a page shows of its items, where they have such an attribute."""
