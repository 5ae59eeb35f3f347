"""Runs as a Ray dataset, read by all machines of a cluster. Needs the extra ``ray``."""

# datasource divides a read into tasks, reading is what a worker does in one of them, coordinator
# shares the server's quota among them. Importing this module does not import ray.

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

from modellab_async.errors import ModelLabError
from modellab_async.extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray.data import Dataset  # pyright: ignore[reportMissingImports]

    from modellab_async.frames import Statistic
    from modellab_async.models import RunFilter

__all__ = ["Failures", "ListingChangedError", "read_runs"]

Failures = Literal["raise", "rows"]
"""Whether a run that cannot be read ends the read with its error, or is a row with the error."""


class ListingChangedError(ModelLabError):
    """Runs left a listing, or moved within it, while it was read: some may be missing."""


def read_runs(
    run_ids: Iterable[int | str] | None = None,
    *,
    filter: RunFilter | None = None,  # noqa: A002 - the API's own name
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    failures: Failures = "raise",
    concurrency: int | None = None,
    override_num_blocks: int | None = None,
    **client: Any,
) -> Dataset:
    """Runs as a Ray dataset, with one row for each id or for each run of a listing.

    Operations: ``GET /runs``, and ``GET /runs/{run_id}`` for ids that the listing does not return.

    The dataset is lazy: nothing is read before it is consumed, except that a listing is counted
    at once, by one request. The read is divided into tasks of up to 5,000 runs. Each makes one
    block, so a task that is repeated after its worker died returns all of its rows or none. All
    tasks share the server's quota through an actor.

    Args:
        run_ids: the ids, repeats included. If None, the runs that ``filter`` selects.
        filter: which runs of the listing; all by default. Runs that are created after the count
            are left out.
        columns: as in `frames.to_batches`: ``"name"``, ``"params.seed"``, ``"metrics.loss.min"``
            and so on. Params are text.
        statistic: the statistic of metrics that are named without one.
        failures: ``"raise"`` ends the read with the first error. ``"rows"`` adds a column
            ``error``, which is null for runs that were read; for others, all columns but ``id``
            are null instead. Refused keys end the read in either case.
        concurrency: as in `ray.data.read_datasource`: how many tasks run at once.
        override_num_blocks: how many tasks and blocks there are; more if they were larger than
            5,000 rows, fewer if smaller than a page of 100. By default as few as possible, but
            one for each processor if that leaves them 1,000 rows.
        **client: options of the workers' `ModelLabClient`: ``site``, ``base_url``, ``retry``,
            ``timeout``, ``max_concurrency`` and so on; they are pickled. Keys that are not given
            come from each worker's environment. The address, if not given, is what
            ``MODELLAB_BASE_URL`` or ``DD_SITE`` of this process says, if set.

    Raises:
        MissingExtraError: if ray is not installed.
        ModelLabError: if the listing cannot be counted.
        TypeError: for a single string as ``run_ids`` or ``columns``, and for an option that a
            worker's client cannot have: ``session``, ``clock``, ``converter`` and ``limiter``.
        ValueError: for an unknown column, other ``failures``, and ids together with a filter.
    """
    missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
    if missing:
        raise missing_extra(__name__, "ray", *missing)
    datasource = import_module(f"{__name__}._datasource").RunsDatasource(
        run_ids,
        filter=filter,
        columns=columns,
        statistic=statistic,
        failures=failures,
        client=client,
    )
    return cast("Dataset", datasource.dataset(concurrency=concurrency, blocks=override_num_blocks))
