"""The datasource: a read, divided into tasks that carry no more than they need."""

from __future__ import annotations

import asyncio
import inspect
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import ray.data  # pyright: ignore[reportMissingImports]
from ray.data.block import BlockMetadata  # pyright: ignore[reportMissingImports]
from ray.data.datasource import Datasource, ReadTask  # pyright: ignore[reportMissingImports]

from modellab_async import frames
from modellab_async.bulk import refuse_lone_id
from modellab_async.client import ModelLabClient
from modellab_async.config import hidden
from modellab_async.endpoints import MAX_PAGE_SIZE, list_runs
from modellab_async.errors import DecodeError
from modellab_async.raydata import Failures
from modellab_async.raydata.coordinator import QuotaCoordinator
from modellab_async.raydata.reading import SORT, BlockFormat, ListingPages, RunIds, read_block

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping

    from modellab_async.frames import Statistic
    from modellab_async.models import RunFilter

T = TypeVar("T")

MAX_ROWS: Final = 5_000
"""A task's rows make one block, too small for Ray to split it: a task that is repeated after its
worker was lost returns all of its rows or none, whatever has changed meanwhile."""

MIN_ROWS: Final = 1_000
"""A read is not divided into smaller tasks to occupy all processors: starting one takes longer."""

ROW_BYTES: Final = 2_200
"""The size of an average run; Ray plans its memory by it."""

MAX_WAITING: Final = 10_000
"""Requests that may wait in the coordinator; Ray queues others, and releases of permits as well."""

_NOT_PORTABLE: Final = {"session", "clock", "converter", "limiter"}


class RunsDatasource(Datasource):
    """Runs by id or by filter; see `read_runs`."""

    def __init__(
        self,
        run_ids: Iterable[int | str] | None = None,
        *,
        filter: RunFilter | None = None,  # noqa: A002 - the API's own name
        columns: Iterable[str] | None = None,
        statistic: Statistic = "latest",
        failures: Failures = "raise",
        client: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        refuse_lone_id(run_ids)
        if run_ids is not None and filter is not None:
            raise ValueError("run_ids and filter exclude each other")
        if failures not in get_args(Failures):
            raise ValueError(f"failures must be 'raise' or 'rows', not {failures!r}")
        if isinstance(columns, str):
            raise TypeError("columns must be a collection of names, not one string")
        names = None if columns is None else tuple(columns)
        frames.to_batches([], columns=names, statistic=statistic)  # refuses what cannot be
        self._form = BlockFormat(names, statistic, failures == "rows")
        self._client = _portable(client or {})
        self._run_ids = None if run_ids is None else list(run_ids)
        self._filter = filter
        self._first_page = 0
        if self._run_ids is not None:
            self._total = len(self._run_ids)
        else:
            self._first_page, self._total = _in_thread(self._count())
        self.coordinator: Any = (
            ray.remote(QuotaCoordinator)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=MAX_WAITING)
            .remote()
        )

    def get_name(self) -> str:
        """What Ray calls the tasks, after ``Read``."""
        return "Runs"

    def estimate_inmemory_data_size(self) -> int:
        """About how many bytes all rows take."""
        return self._total * ROW_BYTES

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: object = None,  # noqa: ARG002 - newer versions of Ray pass it
    ) -> list[ReadTask]:
        """The read in about so many tasks of whole pages, none of more rows than the limit."""
        return [
            self._task(part if per_task_row_limit is None else part.first(per_task_row_limit))
            for part in self._divide(parallelism)
        ]

    def dataset(self, *, concurrency: int | None, blocks: int | None) -> ray.data.Dataset:
        """The dataset, yet to be read.

        Args:
            concurrency: how many tasks run at once.
            blocks: into how many tasks to divide the read, if that leaves them small enough.
        """
        if blocks is None:
            slots = concurrency or int(ray.cluster_resources().get("CPU", 1))
            blocks = min(slots, -(-self._total // MIN_ROWS))
        # Exactly as many as there will be: Ray splits blocks if it asked for more.
        blocks = max(1, len([*self._divide(blocks)]))
        return ray.data.read_datasource(self, concurrency=concurrency, override_num_blocks=blocks)

    def _divide(self, tasks: int) -> Iterator[RunIds | ListingPages]:
        """Tasks of about the same size: as many as asked for, or more if they were too large."""
        pages = -(-self._total // MAX_PAGE_SIZE)
        tasks = max(1, tasks, -(-self._total // MAX_ROWS))
        size = max(1, -(-pages // tasks)) * MAX_PAGE_SIZE
        for start in range(0, self._total, size):
            if self._run_ids is not None:
                yield RunIds(self._run_ids[start : start + size])
            else:
                number = self._first_page + start // MAX_PAGE_SIZE
                rows = min(size, self._total - start)
                yield ListingPages(self._filter, number, rows, self._total)

    def _task(self, runs: RunIds | ListingPages) -> ReadTask:
        # Not self, which has all the ids.
        form, coordinator, client = self._form, self.coordinator, self._client
        metadata = BlockMetadata(
            num_rows=len(runs),
            size_bytes=len(runs) * ROW_BYTES,
            input_files=None,
            exec_stats=None,
        )
        return ReadTask(
            lambda: [read_block(runs, form, coordinator, client)], metadata, schema=form.schema
        )

    async def _count(self) -> tuple[int, int]:
        """The number of the listing's first page, and how many runs it has."""
        async with ModelLabClient(**self._client) as lab:
            page = await lab.perform(
                list_runs(self._filter, sort=SORT, page_size=1, wait_for_quota=True)
            )
        numbers = page.numbers
        if numbers.total is None:
            raise DecodeError("the listing does not say how many runs it has", path="$.meta.page")
        first = numbers.number if numbers.first_number is None else numbers.first_number
        return first or 0, numbers.total


def _portable(client: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the workers' clients, with the address that this process would ask.

    Raises:
        TypeError: for an option that a worker's client cannot be opened with.
    """
    known = inspect.signature(ModelLabClient).parameters.keys() - _NOT_PORTABLE
    for name in client:
        if name not in known:
            raise TypeError(f"{name!r} is no option of a client that workers can open")
    # A repr, such as that of a traceback's locals, shows no key.
    options = {name: hidden(value) for name, value in client.items()}
    if options.get("base_url") is None and options.get("site") is None:
        if base_url := os.environ.get("MODELLAB_BASE_URL"):
            options["base_url"] = hidden(base_url)
        elif site := os.environ.get("DD_SITE"):
            options["site"] = hidden(site)
    return options


def _in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread, since the caller's may already run an event loop (notebooks)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
