"""One of several client processes on one quota: asks for runs all at once, and reports.

``python benchmarks/quota_client.py '["http://127.0.0.1:1234", [1, 2, 3]]'`` waits for a line on its
standard input before it begins, so that all begin together.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from modellab_async import ModelLabClient, Run


async def work(base_url: str, ids: list[int]) -> dict[str, Any]:
    lab = ModelLabClient(base_url=base_url, api_key="sim-api-key", app_key="sim-app-key")
    async with lab:
        await asyncio.to_thread(sys.stdin.readline)
        asking = [lab.runs.get(run_id) for run_id in ids]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        return {
            "fetched": sum(isinstance(answer, Run) for answer in answers),
            "refused": lab.stats.rate_limited,
            "attempts": lab.stats.attempts,
            "ended": time.time(),
        }


if __name__ == "__main__":
    print("ready", flush=True)
    print(json.dumps(asyncio.run(work(*json.loads(sys.argv[1])))), flush=True)
