"""Listening on a port, and letting go of it at once, whatever connections are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

_SHUTDOWN_SECONDS: Final = 1.0
_BACKLOG: Final = 1024


class _CountingServer(web.Server):
    connections_made = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.connections_made += 1
        super().connection_made(handler, transport)


class Listener:
    """An HTTP server with one handler for everything."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        host: str,
        port: int,
    ) -> None:
        self._handler = handler
        self._host = host
        self._port = port
        self._server: _CountingServer | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the port cannot be listened on.
            RuntimeError: it is listening already.
        """
        if self._runner is not None:
            raise RuntimeError("the simulator is running already")
        # Cancellation: whoever hangs up on a stalled request frees its place.
        self._server = _CountingServer(self._handler, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_SHUTDOWN_SECONDS)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG).start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and drop every connection, busy or not. May be called twice."""
        runner, server = self._runner, self._server
        self._runner = None
        if runner is None or server is None:
            return
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    @property
    def base_url(self) -> str:
        """Where it listens.

        Raises:
            RuntimeError: it is not listening.
        """
        if self._runner is None:
            raise RuntimeError("the simulator is not running")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._runner.addresses[0][1]}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return 0 if self._server is None else len(self._server.connections)

    @property
    def connections_made(self) -> int:
        """Connections accepted since the last start."""
        return 0 if self._server is None else self._server.connections_made
