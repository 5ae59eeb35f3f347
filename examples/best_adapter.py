"""Find the best run of a project by a metric, and download its adapter or else its model.

    python examples/best_adapter.py 2387 eval_loss out/

Keys come from the environment: DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from modellab_async import ModelLabClient, ModelLabError, Run, RunFilter, RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FOLDERS = ("adapter/", "model/")


async def by_metric(lab: ModelLabClient, project_id: int, metric: str) -> list[tuple[float, Run]]:
    """The completed runs of a project that have a metric, the lowest value first."""
    found = []
    completed = RunFilter(project_id=project_id, status=RunStatus.COMPLETED)
    async for run in lab.runs.list(completed, sort="created_at"):
        summary = run.metric(metric)
        if summary is not None and summary.min is not None:
            found.append((summary.min, run))
    return sorted(found, key=lambda pair: pair[0])


async def weights_of(lab: ModelLabClient, run: Run) -> str | None:
    """The folder that holds the weights of a run; None if there is none."""
    listing = await lab.runs.artifacts(run.id)
    folders = {file.path for file in listing.files if file.is_dir}
    return next((folder for folder in FOLDERS if folder in folders), None)


async def download(lab: ModelLabClient, run: Run, folder: str, directory: str) -> Sequence[Path]:
    """Download one folder of a run, without the checkpoints beside it."""
    listing = await lab.runs.artifacts(run.id, folder)
    paths = [f"{listing.path_in_project}/{file.path}" for file in listing.files if not file.is_dir]
    return await asyncio.gather(
        *(lab.artifacts.download(run.project_id, path, f"{directory}/") for path in paths)
    )


async def main() -> None:
    """Print the best run and the paths of its files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project_id", type=int)
    parser.add_argument("metric")
    parser.add_argument("directory")
    options = parser.parse_args()
    try:
        async with ModelLabClient() as lab:
            for lowest, run in await by_metric(lab, options.project_id, options.metric):
                if (folder := await weights_of(lab, run)) is None:
                    continue
                print(f"run {run.id} ({run.name}): {options.metric} {lowest:g}")
                for path in await download(lab, run, folder, options.directory):
                    print(path)
                return
    except ModelLabError as error:
        raise SystemExit(f"not finished: {error}") from None
    raise SystemExit(
        f"no completed run of project {options.project_id} has {options.metric}"
        f" and one of {', '.join(FOLDERS)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
