"""The official client, asynchronous and with threads, opened as ``arms.py`` opens the others."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiosonic  # noqa: F401  # the official client imports it only when it is first used
from arms import API_KEY, APP_KEY, Fetch
from datadog_api_client import ApiClient, AsyncApiClient, Configuration, ThreadedApiClient
from datadog_api_client.v2.api.model_lab_api_api import ModelLabAPIApi
from datadog_api_client.v2.model.model_lab_run_response import ModelLabRunResponse

# The operation is in preview, and each call says so. The pool of connections is smaller than the
# pool of threads may be, and it says so each time too.
warnings.filterwarnings("ignore", message="Using unstable operation")
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@asynccontextmanager
async def official_async(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The asynchronous client with the same workers; it opens 30 connections at most."""
    async with AsyncApiClient(_configuration(url)) as client:
        api = ModelLabAPIApi(client)

        async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
            pending = iter(ids)

            async def work() -> None:
                for run_id in pending:
                    answer = await api.get_model_lab_run(run_id)
                    assert answer.data.id == str(run_id)
                    if kept is not None:
                        kept.append(answer)

            await asyncio.gather(*(work() for _ in range(concurrency)))

        yield fetch


@asynccontextmanager
async def official_threads(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The client with a pool of threads; it blocks the loop, which has nothing else to do."""
    with ThreadedApiClient(_configuration(url), pool_threads=concurrency) as client:
        api = ModelLabAPIApi(client)

        async def fetch(ids: Iterable[int], kept: list[Any] | None = None) -> None:
            asked = [(run_id, api.get_model_lab_run(run_id)) for run_id in ids]
            for run_id, promise in asked:
                answer = promise.get()
                assert answer.data.id == str(run_id)
                if kept is not None:
                    kept.append(answer)

        yield fetch


def deserialize(body: bytes) -> ModelLabRunResponse:
    """An answer's bytes to the official model, as its clients do it."""
    return DECODER.deserialize(body.decode(), (ModelLabRunResponse,), check_type=True)


def _configuration(url: str) -> Configuration:
    configuration = Configuration(
        host=url, api_key={"apiKeyAuth": API_KEY, "appKeyAuth": APP_KEY}, enable_retry=True
    )
    configuration.unstable_operations["get_model_lab_run"] = True
    return configuration


DECODER = ApiClient(Configuration())
