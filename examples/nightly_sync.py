"""Keep a Parquet file of a project's runs up to date; for a nightly job.

    python examples/nightly_sync.py 2387 runs.parquet

The first time, all runs are fetched; from then on, those that were updated since the last time.
What a night could not finish, the next one goes on with.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final

from modellab_async import ModelLabClient, ModelLabError, RetryPolicy, RunFilter
from modellab_async.export import export_runs

if TYPE_CHECKING:
    from modellab_async.export import Exported

COLUMNS: Final = ("name", "status", "updated_at", "params.learning_rate", "metrics.eval_loss.min")


async def sync(lab: ModelLabClient, project_id: int, path: str) -> Exported:
    """Bring the file up to date."""
    return await export_runs(
        lab,
        filter=RunFilter(project_id=project_id),
        path=path,
        columns=COLUMNS,
        since_last=True,
        resume=True,
    )


async def main() -> int:
    """Do it, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project_id", type=int)
    parser.add_argument("path")
    options = parser.parse_args()
    # The job has all night: it sits out an hourly quota, and long outages.
    patient = RetryPolicy(attempts=20, cap=300, deadline=2 * 3600)
    try:
        async with ModelLabClient(
            base_url=os.environ.get("MODELLAB_BASE_URL"), retry=patient
        ) as lab:
            exported = await sync(lab, options.project_id, options.path)
    except ModelLabError as error:
        print(f"not finished: {error}", file=sys.stderr)
        return 1
    print(f"{exported.path}: {exported.runs} runs, {exported.fetched} of them fetched now")
    if exported.unlisted:
        print(f"{exported.unlisted} of them are no longer in the project")
    if exported.failed:
        print(f"{exported.failed} failed, see {exported.failures}", file=sys.stderr)
    return 1 if exported.failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
