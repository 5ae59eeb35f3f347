"""Facets: the keys to filter by, and the values they take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from modellab_async.simulator.answers import BadParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modellab_async.simulator.resources import Resource, RunResource

_STATS: Final = ("latest", "max", "mean", "min", "stddev")


def facet_keys(resources: Iterable[Resource], runs: Iterable[RunResource] = ()) -> dict[str, Any]:
    """The keys of all tags, and of the runs' params, as a resource; metrics null, as recorded."""
    tags = {key for resource in resources for key, _ in resource.tags or ()}
    params = {key for run in runs for key, _ in run.params or ()}
    return {
        "attributes": {"metrics": None, "parameters": sorted(params), "tags": sorted(tags)},
        "id": "facet-keys",
        "type": "facet_keys",
    }


def tag_values(resources: Iterable[Resource], name: str) -> dict[str, Any]:
    """The values of one tag, as a resource."""
    found = {value for resource in resources for key, value in resource.tags or () if key == name}
    return _resource("tag", name, values=sorted(found))


def run_facet_values(runs: Sequence[RunResource], kind: str, name: str) -> dict[str, Any]:
    """The values that one facet takes among the runs, as a resource.

    Raises:
        BadParameterError: there is no such kind of facet, or no such attribute.
    """
    match kind, name:
        case "tag", _:
            return tag_values(runs, name)
        case "parameter", _:
            found = {value for run in runs for value in run.param_values(name)}
            return _resource(kind, name, values=sorted(found), **_numeric_range(found))
        case "metric", _:
            return _resource(kind, name, values=[], metric_stat_ranges=_stat_ranges(runs, name))
        case "attribute", "status":
            return _resource(kind, name, values=sorted({run.status for run in runs}))
        case "attribute", "owner_id":
            owners = {run.owner_id for run in runs if run.owner_id is not None}
            return _resource(kind, name, values=sorted(owners))
        case "attribute", "duration":
            durations = [run.duration for run in runs if run.duration is not None]
            return _resource(kind, name, values=[], **_numeric_range(durations))
        case "attribute", _:
            raise BadParameterError("facet_name", f"{name!r} is not an attribute with facets")
        case _:
            raise BadParameterError("facet_type", f"{kind!r} is not a type of facet")


def _resource(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "attributes": {"facet_name": name, "facet_type": kind, **more},
        "id": f"{kind}:{name}",
        "type": "facet_values",
    }


def _numeric_range(values: Iterable[str | float]) -> dict[str, Any]:
    """The field `numeric_range`, or no field at all where not all values are numbers."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return {}
    if not numbers or not all(map(math.isfinite, numbers)):
        return {}
    return {"numeric_range": {"max": max(numbers), "min": min(numbers)}}


def _stat_ranges(runs: Iterable[RunResource], name: str) -> list[dict[str, Any]]:
    summaries = [
        summary
        for run in runs
        for summary in run.attributes().get("metric_summaries") or ()
        if summary.get("key") == name
    ]
    ranges: list[dict[str, Any]] = []
    for stat in _STATS:
        values = [summary[stat] for summary in summaries if summary.get(stat) is not None]
        if values:
            ranges.append({"max": max(values), "min": min(values), "stat": stat})
    return ranges
