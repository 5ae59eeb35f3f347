"""A plain aiohttp client for the simulator's own tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import attrs
from multidict import CIMultiDictProxy

from modellab_async.simulator import Simulator

PREFIX: Final = "/api/v2/model-lab-api"


@attrs.frozen
class Reply:
    """An answer that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[int]:
        """The ids of the resources on a page."""
        return [int(resource["id"]) for resource in self.json["data"]]

    @property
    def attributes(self) -> Any:
        """The attributes of the one resource."""
        return self.json["data"]["attributes"]


@attrs.frozen
class Asker:
    """Asks one simulator."""

    simulator: Simulator
    session: aiohttp.ClientSession

    async def __call__(
        self,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        async with self.session.request(
            method,
            self.simulator.base_url + PREFIX + path,
            params=query,
            headers=self.simulator.headers if headers is None else headers,
            allow_redirects=False,
        ) as response:
            return Reply(response.status, response.headers, await response.read())


@asynccontextmanager
async def asking(simulator: Simulator) -> AsyncIterator[Asker]:
    """Runs a simulator and a session to ask it with; GETs are never repeated by aiohttp."""
    async with simulator, aiohttp.ClientSession() as session:
        # The only switch aiohttp has for its silent second try on a dead connection.
        session._retry_connection = False
        yield Asker(simulator, session)
