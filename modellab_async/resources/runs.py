"""``client.runs``: training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from modellab_async import bulk, endpoints
from modellab_async.pagination import Pager
from modellab_async.waiting import Lookout, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from modellab_async.clock import Clock
    from modellab_async.limiter import Limiter
    from modellab_async.models import FacetKeys, FacetValues, Run, RunArtifacts, RunFilter


class Runs:
    """``client.runs``: training runs."""

    def __init__(self, perform: bulk.Perform, limiter: Limiter, clock: Clock) -> None:
        self._perform = perform
        self._limiter = limiter
        self._lookout = Lookout(perform, limiter.max_concurrency, clock)

    async def get(self, run_id: int | str) -> Run:
        """One run.

        Operation: ``GET /runs/{run_id}``.

        Raises:
            NotFoundError: where there is no such run.
        """
        return cast("Run", await self._perform(endpoints.get_run(run_id)))

    async def get_many(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        *,
        route: bulk.Route = "auto",
    ) -> list[Run]:
        """Many runs, fetched concurrently, in the order asked, repeats included.

        Operations and ``route``: as in :meth:`fetch`.

        Raises:
            BulkError: where any failed; it carries every run fetched and every error.
            TypeError: for a lone string or bytes.
        """
        return await bulk.collect(
            run_ids,
            perform=self._perform,
            concurrency=self._limiter.max_concurrency,
            route=route,
            wide=self._limiter.warmed_up("runs.get"),
        )

    def fetch(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        *,
        route: bulk.Route = "auto",
        ordered: bool = False,
        on_progress: bulk.Progress | None = None,
    ) -> bulk.Fetch:
        """The outcomes of any number of ids, as they arrive, in bounded memory.

        Exactly one `Outcome` comes for each id asked, repeats included. Ids are read as requests
        can be made, never far ahead. A 401 or 403 before anything has succeeded becomes the
        outcome of all remaining ids without another request. An error that the iterable itself
        raises comes after the outcomes of the ids already read.

        Args:
            run_ids: an iterable or async iterable of ids.
            route: ``"single"`` is one ``GET /runs/{run_id}`` per id. ``"batch"`` asks ``GET /runs``
                for up to 100 ids at a time, and for each id that is absent from the answer by
                itself, so that its outcome is as definite. ``"auto"`` is ``"batch"``, but goes on
                with ``"single"`` where the listing is refused or ignores what it was asked for.
            ordered: give the outcomes in the order asked.
            on_progress: called with the number of outcomes given and of ids in all (None where
                the iterable does not know) after each outcome.

        Raises:
            TypeError: for a lone string or bytes.
            ValueError: for an unknown route.
        """
        if route not in {"auto", "batch", "single"}:
            raise ValueError(f"route must be 'auto', 'batch' or 'single', not {route!r}")
        return bulk.fetch(
            run_ids,
            perform=self._perform,
            concurrency=self._limiter.max_concurrency,
            route=route,
            ordered=ordered,
            on_progress=on_progress,
            wide=self._limiter.warmed_up("runs.get"),
        )

    def list(
        self,
        filter: RunFilter | None = None,  # noqa: A002  # the API's own name
        *,
        sort: str | None = None,
        page_size: int | None = None,
        pinned_first: bool | None = None,
        include_pinned: bool | None = None,
        include_descendant_matches: bool | None = None,
    ) -> Pager[Run]:
        """Runs by filter: ``await`` gives one `Page`, ``async for`` gives every run.

        Operation: ``GET /runs``. Sort by a stable ascending field, such as ``created_at``, when
        everything must be seen while runs are added.

        Args:
            filter: which runs; all by default.
            sort: ``name``, ``created_at``, ``updated_at`` or ``duration``, with a leading ``-`` to
                descend.
            page_size: 1 to 100; by default the server's own for ``await``, 100 for iteration.
            pinned_first: whether pinned runs come before the others.
            include_pinned: whether pinned runs are given even where the filter leaves them out.
            include_descendant_matches: whether runs are given of which a descendant matches.

        Raises:
            ValueError: for another ``sort`` or ``page_size``.
        """
        return Pager(
            lambda size, number: endpoints.list_runs(
                filter,
                sort=sort,
                page_size=size,
                page_number=number,
                pinned_first=pinned_first,
                include_pinned=include_pinned,
                include_descendant_matches=include_descendant_matches,
            ),
            perform=self._perform,
            page_size=page_size,
        )

    async def wait(self, run_id: int | str, *, timeout: float | None = None) -> Run:
        """Wait until a run is completed, failed or killed, whichever it is.

        Looks at it at once, then after about 1 s, and less and less often, up to every 30 s.
        All waits and watches of one client share their requests. Failures that may pass, such as
        no connection, a 5xx or a 429, are survived for as long as the wait goes on.

        Operation: ``GET /runs/{run_id}``, or ``GET /runs?filter[id]=…`` for up to 100 together.

        Args:
            run_id: the run.
            timeout: seconds to wait at the most, with a last look at their end; 0 looks once,
                None waits for ever. A request still unanswered then gets up to 2 s more.

        Raises:
            WaitTimeoutError: where it has not ended in time; its ``run`` is the last one seen.
            NotFoundError: where there is no such run, or no longer.
            ValueError: for a ``timeout`` that is no number of seconds.
        """
        return await self._lookout.wait(run_id, timeout)

    def watch(self, run_ids: Iterable[int | str]) -> Watch:
        """Each change of several runs, as an async iterator that ends when all have ended.

        Gives every run once at first, and again each time that its ``status`` or ``updated_at``
        is found changed. Looks as :meth:`wait` does, and survives the same failures; it looks only
        while the next change is awaited. An id given twice is watched once.

        Any other error, such as that a run does not exist, is raised after the changes found with
        it. That run is then watched no longer: iterating again goes on with the others.

        Operation: ``GET /runs?filter[id]=…`` for up to 100 runs, ``GET /runs/{run_id}`` for one,
        for those that the listing does not show, and where it is refused.

        Raises:
            InvalidIdError: for a bad id, before any request.
            NotFoundError: on iterating, where there is no such run, or no longer.
            TypeError: for a lone string or bytes.
        """
        return Watch(self._lookout, run_ids)

    async def delete(self, run_id: int | str) -> None:
        """Delete a run.

        Operation: ``DELETE /runs/{run_id}``. A 404 counts as success only where the answer to an
        earlier attempt of the same call was lost.

        Raises:
            NotFoundError: where there is no such run.
        """
        await self._perform(endpoints.delete_run(run_id))

    async def pin(self, run_id: int | str) -> None:
        """Pin a run for the current user; pinning it twice is no error.

        Operation: ``POST /runs/{run_id}/pin``.
        """
        await self._perform(endpoints.pin_run(run_id))

    async def unpin(self, run_id: int | str) -> None:
        """Take a run's pin away.

        Operation: ``DELETE /runs/{run_id}/pin``.
        """
        await self._perform(endpoints.unpin_run(run_id))

    async def artifacts(self, run_id: int | str, path: str | None = None) -> RunArtifacts:
        """The files and directories of a run, one directory at a time.

        Operation: ``GET /runs/{run_id}/artifacts``.

        Args:
            run_id: the run.
            path: a sub-directory, as an earlier answer named it; the top one by default.
        """
        call = endpoints.list_run_artifacts(run_id, path)
        return cast("RunArtifacts", await self._perform(call))

    async def facet_keys(self, project_id: int | str) -> FacetKeys:
        """What the runs of a project can be filtered by.

        Operation: ``GET /facet-keys``.
        """
        return cast("FacetKeys", await self._perform(endpoints.facet_keys(project_id)))

    async def facet_values(
        self, project_id: int | str, facet_type: endpoints.FacetType, facet_name: str
    ) -> FacetValues:
        """The values that one facet takes in a project's runs.

        Operation: ``GET /facet-values``.

        Raises:
            ValueError: for an unknown ``facet_type``.
        """
        call = endpoints.facet_values(project_id, facet_type, facet_name)
        return cast("FacetValues", await self._perform(call))
