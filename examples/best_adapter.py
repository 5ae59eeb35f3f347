"""Pick a project's best run by a metric, and download its adapter.

    python examples/best_adapter.py 2387 eval_loss out/

Keys come from the environment: DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from typing import TYPE_CHECKING

from modellab_async import ConfigError, ModelLabClient, NotFoundError, Run, RunFilter, RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def best_run(lab: ModelLabClient, project_id: int, metric: str) -> Run | None:
    """The completed run whose metric fell lowest; None where no run has it."""
    best, lowest = None, math.inf
    completed = RunFilter(project_id=project_id, status=RunStatus.COMPLETED)
    async for run in lab.runs.list(completed, sort="created_at"):
        summary = run.metric(metric)
        if summary is not None and summary.min is not None and summary.min < lowest:
            best, lowest = run, summary.min
    return best


async def download_adapter(
    lab: ModelLabClient, run: Run, directory: str, folder: str = "adapter/"
) -> Sequence[Path]:
    """The files of one folder of a run, without the gigabytes of checkpoints beside it."""
    listing = await lab.runs.artifacts(run.id, folder)
    async with asyncio.TaskGroup() as group:
        downloads = [
            group.create_task(
                lab.artifacts.download(
                    run.project_id, f"{listing.path_in_project}/{file.path}", f"{directory}/"
                )
            )
            for file in listing.files
            if not file.is_dir
        ]
    return [download.result() for download in downloads]


async def main() -> None:
    """Do both, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project_id", type=int)
    parser.add_argument("metric")
    parser.add_argument("directory")
    options = parser.parse_args()
    try:
        async with ModelLabClient(base_url=os.environ.get("MODELLAB_BASE_URL")) as lab:
            run = await best_run(lab, options.project_id, options.metric)
            if run is None:
                raise SystemExit(f"no completed run of project {options.project_id} has it")
            print(f"run {run.id} ({run.name}): {options.metric} {run.metric(options.metric)}")
            for path in await download_adapter(lab, run, options.directory):
                print(path)
    except* (ConfigError, NotFoundError) as errors:  # one download of several may be among them
        raise SystemExit(f"not finished: {first_of(errors)}") from None


def first_of(errors: BaseExceptionGroup[Exception]) -> BaseException:
    """The first error of a group, however deep."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


if __name__ == "__main__":
    asyncio.run(main())
