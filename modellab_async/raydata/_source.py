"""The datasource: a read, split into tasks that carry no more than they need."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import ray.data  # pyright: ignore[reportMissingImports]
from ray.data.block import BlockMetadata  # pyright: ignore[reportMissingImports]
from ray.data.datasource import Datasource, ReadTask  # pyright: ignore[reportMissingImports]

from modellab_async.bulk import refuse_lone_id
from modellab_async.client import ModelLabClient
from modellab_async.config import hidden
from modellab_async.endpoints import MAX_PAGE_SIZE, list_runs
from modellab_async.errors import DecodeError
from modellab_async.frames import batch_plan
from modellab_async.raydata import Failures
from modellab_async.raydata.gate import Gate, client_of
from modellab_async.raydata.reading import SORT, ByIds, ByPages, Rows, Selection
from modellab_async.raydata.reading import read as read_block

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping

    from modellab_async.converter import PageNumbers
    from modellab_async.frames import Statistic
    from modellab_async.models import RunFilter

T = TypeVar("T")

ROWS_PER_TASK: Final = 5_000
"""A task's rows make one block, too small for Ray to split it: a task that is done again after its
worker was lost gives all of its rows or none, whatever has changed since."""

ROW_BYTES: Final = 2_200
"""What a run takes, on average; Ray chooses the number of tasks by it."""

_UNPORTABLE: Final = {"session", "clock", "converter"}


class RunsDatasource(Datasource):
    """Runs by id or by filter, for `ray.data.read_datasource`; see `read_runs`."""

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
        self._rows = Rows(batch_plan(columns, statistic, "wide"), failures == "rows")
        self._schema = self._rows.schema
        # A repr, such as that of a traceback's locals, shows no key.
        self._client = {name: hidden(value) for name, value in (client or {}).items()}
        _check_options(self._client)
        self._run_ids = None if run_ids is None else list(run_ids)
        self._filter = filter
        self._number = 0
        if self._run_ids is not None:
            self._total = len(self._run_ids)
        else:
            self._number, self._total = _apart(self._count())
        self._gate = Gate.start()

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
            for part in self._parts(parallelism)
        ]

    def _parts(self, parallelism: int) -> Iterator[Selection]:
        pages = -(-self._total // max(1, parallelism) // MAX_PAGE_SIZE)
        size = min(ROWS_PER_TASK, max(1, pages) * MAX_PAGE_SIZE)
        if self._run_ids is not None:
            for start in range(0, len(self._run_ids), size):
                yield ByIds(self._run_ids[start : start + size])
            return
        for start in range(0, self._total, size):
            rows = min(size, self._total - start)
            yield ByPages(self._filter, self._number + start // MAX_PAGE_SIZE, rows, self._total)

    def _task(self, part: Selection) -> ReadTask:
        rows, client, gate = self._rows, self._client, self._gate  # not self, with all the ids

        def read_part() -> Iterable[Any]:
            return [read_block(part, rows, client_of(gate), client)]

        metadata = BlockMetadata(
            num_rows=len(part),
            size_bytes=len(part) * ROW_BYTES,
            input_files=None,
            exec_stats=None,
        )
        return ReadTask(read_part, metadata, schema=self._schema)

    async def _count(self) -> tuple[int, int]:
        """The number of the listing's first page, and how many runs it lists."""
        async with ModelLabClient(**self._client) as lab:
            raw = await lab.perform(list_runs(self._filter, sort=SORT, page_size=1))
        page: PageNumbers = raw.numbers
        if page.total is None:
            raise DecodeError("the listing does not say how many runs it has", path="$.meta.page")
        first = page.first_number if page.first_number is not None else page.number
        return first or 0, page.total


def read(
    source: RunsDatasource, *, concurrency: int | None, override_num_blocks: int | None
) -> ray.data.Dataset:
    """The dataset of a datasource, yet to be read."""
    return ray.data.read_datasource(
        source, concurrency=concurrency, override_num_blocks=override_num_blocks
    )


def _apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread, since the caller may be a notebook whose own loop runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _check_options(client: Mapping[str, Any]) -> None:
    """Refuse options that a worker's client could not be opened with.

    Raises:
        TypeError: naming the first.
    """
    known = inspect.signature(ModelLabClient).parameters.keys() - _UNPORTABLE
    for name in client:
        if name not in known:
            raise TypeError(f"{name!r} is no option of a client that workers can open")
