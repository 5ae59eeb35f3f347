"""Datadog's own asynchronous client, opened as `arms` opens the others."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiosonic  # noqa: F401 - the client imports it only when it is first used
from datadog_api_client import AsyncApiClient, Configuration
from datadog_api_client.v2.api.model_lab_api_api import ModelLabAPIApi

from benchmarks.arms import API_KEY, APP_KEY, PAGE, Fetch, pages, work_on

warnings.filterwarnings("ignore", message="Using unstable operation")  # each call of a preview


@asynccontextmanager
async def single(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """One request a run; it opens 30 connections at most."""
    async with AsyncApiClient(_configuration(url)) as client:
        api = ModelLabAPIApi(client)

        async def fetch(ids: Iterable[int], kept: list[Any] | None) -> None:
            async def work(pending: Iterable[int]) -> None:
                for run_id in pending:
                    run = (await api.get_model_lab_run(run_id)).data
                    assert run.id == str(run_id)
                    if kept is not None:
                        kept.append(run)

            await work_on(iter(ids), work, concurrency)

        yield fetch


@asynccontextmanager
async def batch(url: str, concurrency: int) -> AsyncIterator[Fetch]:
    """The listing with 100 ids a request."""
    async with AsyncApiClient(_configuration(url)) as client:
        api = ModelLabAPIApi(client)

        async def fetch(ids: Iterable[int], kept: list[Any] | None) -> None:
            async def work(pending: Iterable[list[int]]) -> None:
                for page in pending:
                    text = ",".join(map(str, page))
                    runs = (await api.list_model_lab_runs(filter_id=text, page_size=PAGE)).data
                    assert len(runs) == len(page)
                    if kept is not None:
                        kept.extend(runs)

            await work_on(pages(ids), work, min(concurrency, 10))

        yield fetch


def _configuration(url: str) -> Configuration:
    configuration = Configuration(
        host=url, api_key={"apiKeyAuth": API_KEY, "appKeyAuth": APP_KEY}, enable_retry=True
    )
    for operation in ("get_model_lab_run", "list_model_lab_runs"):
        configuration.unstable_operations[operation] = True
    return configuration
