"""One export from its beginning, or from where a killed process left it, to its end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import attrs

from modellab_async.bulk import refuse_lone_id
from modellab_async.downloads.part import DiskError, on_disk
from modellab_async.errors import ConfigError, ExportError
from modellab_async.export.gather import Gathering, newest_of
from modellab_async.export.part import Lines, Part, failed_ids, keep_failures
from modellab_async.export.plan import Plan, Record, form_of
from modellab_async.export.spool import Spool
from modellab_async.export.text import Csv, JsonLines
from modellab_async.frames import needs_arrow
from modellab_async.frames.layout import batched, wanted_columns
from modellab_async.frames.survey import Survey
from modellab_async.idset import IdSet
from modellab_async.models import RunFilter

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator, Sequence

    from modellab_async.client import ModelLabClient
    from modellab_async.export.plan import Form, Format, Task
    from modellab_async.frames.columns import Statistic
    from modellab_async.frames.layout import Layout, Shape
    from modellab_async.models import Page, Run

    Phase = Literal["fetch", "write"]
    Progress = Callable[[Phase, int, int | None], object]

OVERLAP: Final = timedelta(minutes=1)
"""How far behind the newest run of the last export to look, for servers' clocks that differ."""

_ROW_GROUP: Final = 10_000
_ROW_GROUP_LONG: Final = 5_000
"""How many runs are written in one go, in either shape."""


class _Writer(Protocol):
    def write(self, runs: Sequence[Run]) -> None: ...
    def carry(self, earlier: Path, without: IdSet, kept: IdSet) -> Iterator[int]: ...
    def close(self) -> None: ...


@attrs.frozen
class Exported:
    """A complete export.

    Attributes:
        path: the file.
        runs: how many runs it holds.
        fetched: how many of them were fetched, now or by the attempt that this one went on with.
        failed: how many could not be fetched; they are named in ``failures``.
        failures: the side file.
        unlisted: how many rows are of runs that were deleted, or no longer match the filter, as
            far as the listing's count tells; None where it does not.
        complete: whether the listing saw every run that existed throughout; None where it cannot
            tell, or was not read to its end.
    """

    path: Path
    runs: int
    fetched: int
    failed: int
    failures: Path
    unlisted: int | None = None
    complete: bool | None = None


async def export_runs(
    lab: ModelLabClient,
    run_ids: Iterable[int | str] | AsyncIterable[int | str] | None = None,
    *,
    path: str | os.PathLike[str],
    filter: RunFilter | None = None,  # noqa: A002 - the API's own name
    format: Format | None = None,  # noqa: A002 - what everyone calls it
    shape: Shape = "wide",
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    resume: bool = False,
    since_last: bool = False,
    retry_failed: bool = False,
    on_progress: Progress | None = None,
) -> Exported:
    """Write runs to a file, in bounded memory, so that nothing is lost when it breaks off.

    The file appears under its name when it is complete, and replaces an earlier one in one step.
    Until then, everything is in the directory ``NAME.part`` beside it; what was fetched is brought
    to disk there every 1,000 runs or every second. Runs that cannot be fetched are named in
    ``NAME.failed.jsonl``, one JSON object each: ``run_id``, ``error``, ``status``, ``message``.
    ``NAME.export.json`` remembers what later exports need to know.

    Args:
        lab: the client.
        run_ids: the runs, each of which is exported once however often it is named. By default
            those that ``filter`` lets through.
        path: the file.
        filter: which runs; all by default.
        format: ``"jsonl"``, ``"csv"`` or ``"parquet"``; by default what the path ends in.
        shape: ``"wide"`` or ``"long"``, see `modellab_async.frames.to_table`.
        columns: which columns, see there.
        statistic: of metrics that are named without one.
        resume: go on with an export of the same file that broke off, if there is one. What it
            fetched is not fetched again; ``run_ids`` have to name it again.
        since_last: fetch only what was updated since the last export of this file, and replace its
            rows; everything if there was none. For exports by filter.
        retry_failed: fetch only what is named in the side file, and add its rows.
        on_progress: called with ``"fetch"`` or ``"write"``, how many runs are done, and of how
            many in all, where that is known.

    Raises:
        ConfigError: for a path that names no format, and where the options differ from those that
            the export to go on with, or to bring up to date, was made with.
        MissingExtraError: for Parquet without pyarrow.
        ExportError: where the disk refuses, another export is at work on the same file, or one
            broke off and ``resume`` is False; for Parquet, where an integer is beyond 64 bits.
        ModelLabError: where the listing fails, or the keys are refused; ``resume`` goes on.
        TypeError: for a lone string as ``run_ids`` or ``columns``.
        ValueError: for an unknown format, shape, statistic or column, and for options that
            exclude each other.
    """
    refuse_lone_id(run_ids)
    if since_last and retry_failed:
        raise ValueError("since_last and retry_failed exclude each other")
    if run_ids is not None and (filter is not None or since_last or retry_failed):
        raise ValueError("run_ids exclude filter, since_last and retry_failed")
    target = Path(path)
    chosen = (filter or RunFilter()) if run_ids is None else None
    form = form_of(
        target, format=format, shape=shape, columns=columns, statistic=statistic, filter=chosen
    )
    if form.format == "parquet":
        needs_arrow("Parquet")
    task: Task = "since_last" if since_last else "failed" if retry_failed else "all"
    work = _Work(lab, Part(target), on_progress or (lambda _phase, _done, _total: None))
    try:
        return await work.run(form, task, run_ids, chosen, resume=resume)
    except DiskError as error:
        raise ExportError(str(error)) from error.__cause__


class _Work:
    def __init__(self, lab: ModelLabClient, part: Part, on_progress: Progress) -> None:
        self._lab = lab
        self._part = part
        self._on_progress: Progress = on_progress
        self._newest: Page[Run] | None = None

    async def run(
        self, form: Form, task: Task, run_ids: Any, chosen: RunFilter | None, *, resume: bool
    ) -> Exported:
        part = self._part
        try:
            await on_disk(part.open)
            settled = await on_disk(part.settle)
            if settled is not None and resume:
                return self._exported(settled)
            earlier = await on_disk(part.earlier)
            if task == "failed":
                form = self._of_failed(form, earlier)
                run_ids = failed_ids(part.failed)
            plan = await self._plan(form, task, chosen, earlier, resume=resume)
            carried = None if task == "all" else earlier
            if task == "since_last" and carried is None and part.target.exists():
                raise ConfigError(
                    f"nothing is known of how {part.target} was exported:"
                    " export it anew, without asking for what is new since then"
                )
            return await self._finish(plan, run_ids, chosen, carried)
        finally:
            await on_disk(part.close)

    def _of_failed(self, form: Form, earlier: Record | None) -> Form:
        """The form of the export of which something failed, whatever that was asked for by."""
        if earlier is None:
            raise ConfigError(f"{self._part.target} is no export whose failures could be retried")
        form = attrs.evolve(form, filter=earlier.form.filter)
        form.must_be(earlier.form, str(self._part.target))
        return form

    async def _plan(
        self,
        form: Form,
        task: Task,
        chosen: RunFilter | None,
        earlier: Record | None,
        *,
        resume: bool,
    ) -> Plan:
        """The plan to go on with, or a new one."""
        found = await on_disk(self._part.plan)
        if found is not None:
            directory = self._part.directory
            if not resume:
                raise ExportError(
                    f"an export that broke off is in {directory}:"
                    " resume it, or remove the directory to begin anew"
                )
            form.must_be(found.form, f"the export in {directory}")
            if found.task != task:
                raise ConfigError(
                    f"the export in {directory} was begun to fetch {found.task!r}, not {task!r}"
                )
            return found
        mark = since = None
        if task == "failed":
            mark = earlier.mark if earlier else None
        elif form.filter is not None:
            if task == "since_last" and earlier is not None:
                form.must_be(earlier.form, str(self._part.target))
                since = None if earlier.mark is None else earlier.mark - OVERLAP
            # What changes while the export is under way is newer than this, and found by the next
            # one. The newest run of the export itself may be newer than one that was read before.
            newest, whole = await newest_of(self._lab, chosen)
            self._newest = newest if whole else None
            times = (run.updated_at for run in newest.items)
            mark = max((time for time in times if time is not None), default=None)
        plan = Plan(form, task, mark, since)
        await on_disk(self._part.begin, plan)
        return plan

    async def _finish(
        self, plan: Plan, run_ids: Any, chosen: RunFilter | None, carried: Record | None
    ) -> Exported:
        form, part = plan.form, self._part
        columns = wanted_columns(form.columns, form.statistic, form.shape)
        survey = Survey(form.shape, columns, carried.columns if carried else None)
        spool = Spool(part.runs, survey.see)
        failures = Lines(part.failures)
        gathering = Gathering(
            self._lab,
            spool,
            failures,
            part.place,
            lambda done, total: self._on_progress("fetch", done, total),
        )
        try:
            await on_disk(spool.open)
            # An id that failed is asked for again, whereas a listing goes on behind what failed.
            await on_disk(failures.open, None if run_ids is None else 0)
            try:
                if run_ids is not None:
                    await gathering.by_id(run_ids)
                else:
                    await gathering.by_filter(chosen, plan.since, self._newest)
            finally:
                await gathering.write()
            runs = await self._write(form, survey, spool, carried)
            failed = await on_disk(self._count_failures, plan.task, failures, spool)
        finally:
            await on_disk(spool.close)
            await on_disk(failures.close)
        listed = gathering.listed
        record = Record(
            form=form,
            mark=plan.mark,
            columns=survey.learned(),
            runs=runs,
            fetched=len(spool.ids),
            failed=failed,
            unlisted=None if listed is None else max(0, runs - listed),
        )
        await on_disk(part.commit, record)
        return attrs.evolve(self._exported(record), complete=gathering.complete)

    async def _write(self, form: Form, survey: Survey, spool: Spool, carried: Record | None) -> int:
        """Write the file from what was fetched and what is carried over; how many runs it holds."""
        if carried is not None and not len(spool.ids):
            return carried.runs
        layout = survey.layout()
        kinds = layout.kinds
        became_text = [
            name
            for name, guess in (carried.columns if carried else {}).items()
            if guess is not None and guess.kind != "text" and kinds.get(name) == "text"
        ]
        writer = await on_disk(_open, form.format, self._part.output, layout, became_text)
        kept = IdSet()
        size = _ROW_GROUP if form.shape == "wide" else _ROW_GROUP_LONG
        total = len(spool.ids) + (carried.runs if carried else 0)
        try:
            if carried is not None:
                rows = writer.carry(self._part.target, spool.ids, kept)
                while await on_disk(next, rows, None) is not None:
                    self._on_progress("write", len(kept), total)
            runs, written = batched(spool.runs(), size), 0
            while batch := await on_disk(next, runs, None):
                await on_disk(writer.write, batch)
                written += len(batch)
                self._on_progress("write", len(kept) + written, total)
        finally:
            await on_disk(writer.close)
        return len(kept) + len(spool.ids)

    def _count_failures(self, task: Task, failures: Lines, spool: Spool) -> int:
        """How many failures the side file will name, with those of earlier that still stand."""
        if task == "since_last":
            keep_failures(self._part.failed, failures, spool.ids)
            failures.write()
        return sum(1 for _ in failed_ids(self._part.failures))

    def _exported(self, record: Record) -> Exported:
        return Exported(
            path=self._part.target,
            runs=record.runs,
            fetched=record.fetched,
            failed=record.failed,
            failures=self._part.failed,
            unlisted=record.unlisted,
        )


def _open(
    format: Format,  # noqa: A002 - what everyone calls it
    path: Path,
    layout: Layout,
    became_text: Collection[str],
) -> _Writer:
    if format == "parquet":
        from modellab_async.export.parquet import Parquet  # noqa: PLC0415 - needs pyarrow

        return Parquet(path, layout)
    return (Csv if format == "csv" else JsonLines)(path, layout, became_text)
