"""Runs as a Ray dataset, read by all machines of a cluster. Needs the extra ``ray``.

ds = raydata.read_runs(filter=RunFilter(project_id=2387), columns=["name", "params.seed"])

``source`` splits a read into tasks, ``reading`` is what a worker does in one, ``gate`` shares the
server's quota among them. Importing this imports none of ray.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

from modellab_async.errors import MissingExtraError, ModelLabError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray.data import Dataset  # pyright: ignore[reportMissingImports]

    from modellab_async.frames import Statistic
    from modellab_async.models import RunFilter

__all__ = ["Failures", "ListingChangedError", "read_runs"]

Failures = Literal["raise", "rows"]
"""What becomes of a run that cannot be read: it ends the read, or is a row with an error."""


class ListingChangedError(ModelLabError):
    """Runs left a listing while it was read in parts, so that some may be in none of them."""


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
    """Runs as a Ray dataset with one row for each id asked, or for each run of a listing.

    The read is lazy, in tasks of whole pages, up to 5,000 runs each; a task that is lost with its
    worker is done again. All tasks share the server's quota through an actor of this read. With a
    filter, one request is made at once, to count the runs; those created later are left out.

    Args:
        run_ids: the runs, repeats included. By default those that ``filter`` lets through.
        filter: which runs; all by default.
        columns: as in `frames.to_batches`: ``"name"``, ``"params.seed"``, ``"metrics.loss.min"``
            and so on; params are text.
        statistic: of metrics that are named without one.
        failures: ``"raise"`` ends the read with the first error. ``"rows"`` adds a column
            ``error``, which is null in the rows of runs that could be read; in the others,
            everything but ``id`` is null instead. Keys that are refused end the read in any case.
        concurrency: as in `ray.data.read_datasource`: how many tasks run at once.
        override_num_blocks: as there: how many tasks there are.
        **client: options of `ModelLabClient`, which is opened in the workers: ``site``,
            ``base_url``, ``retry``, ``timeout`` and so on. Keys come from each worker's environment
            unless they are given here. What is given is pickled.

    Raises:
        MissingExtraError: where ray is not installed.
        ModelLabError: where the runs of a listing cannot be counted.
        TypeError: for a lone string as ``run_ids`` or ``columns``, and for options that a worker's
            client cannot have.
        ValueError: for a column that cannot be, other ``failures``, and ids beside a filter.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingExtraError(f"{__name__} needs ray: pip install 'modellab_async[ray]'")
    datasource = import_module(f"{__name__}.datasource").RunsDatasource(
        run_ids,
        filter=filter,
        columns=columns,
        statistic=statistic,
        failures=failures,
        client=client,
    )
    return cast("Dataset", datasource.dataset(concurrency=concurrency, blocks=override_num_blocks))
