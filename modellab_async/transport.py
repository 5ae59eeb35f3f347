"""One attempt over an aiohttp session, owned or borrowed; aiohttp's errors become ours here."""

from __future__ import annotations

import asyncio
import math
import platform
import re
import sys
import weakref
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from ssl import SSLContext
from typing import Final, Self

import aiohttp
import attrs
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from modellab_async._version import __version__
from modellab_async.config import API_PREFIX, Credentials
from modellab_async.endpoints import Call
from modellab_async.errors import (
    ClientClosedError,
    ConfigError,
    DecodeError,
    FailureKind,
    ModelLabError,
    RequestTimeoutError,
    TransportError,
    detached,
)
from modellab_async.responses import Response, shorten_ids
from modellab_async.stats import Counters

USER_AGENT: Final = (
    f"modellab_async/{__version__} (python {platform.python_version()};"
    f" aiohttp {aiohttp.__version__}; {sys.platform})"
)

_NO_TIMEOUT: Final = aiohttp.ClientTimeout()
"""aiohttp's timeouts stay off: one of ours covers connecting, headers and body."""

_USERINFO: Final = re.compile(r"://[^/\s]*@")
"""A proxy's user and password, which aiohttp's errors show."""

_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The content codings that zlib decompresses, with its argument for each."""

_DECOMPRESSED_AT_ONCE: Final = 1024 * 1024
"""Bytes that a stream decompresses at a time."""

_connection: ContextVar[ResponseHandler | None] = ContextVar("_connection", default=None)
"""The connection that the current task's last request went over."""


class _Connector(aiohttp.TCPConnector):
    """Discards kept connections on which data arrived while no response was due.

    aiohttp would take an unsolicited response on an idle connection for the one to the next
    request.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                _connection.set(protocol)
                return connection
            connection.close()


@attrs.frozen(repr=False)  # a path may hold what should not be shown
class Address:
    """Where the API is.

    Attributes:
        base: the base URL.
        root: what the URL of every call begins with.
        path: the path of ``root``.
        host: the host of the base URL, and the proxy, for the messages of errors.
    """

    base: URL
    root: str
    path: str
    host: str

    @classmethod
    def of(cls, base: URL, proxy: URL | None) -> Self:
        """The address below a base URL."""
        through = f" through the proxy {proxy.host_port_subcomponent}" if proxy else ""
        return cls(
            base,
            str(base).rstrip("/") + API_PREFIX,
            base.raw_path.rstrip("/") + API_PREFIX,
            f"{base.host_port_subcomponent}{through}",
        )

    def url(self, call: Call) -> URL:
        """The URL of a call; to replace a path is ten times cheaper than to parse a URL."""
        if call.query:
            return URL(self.root + _target(call), encoded=True)
        return self.base.with_path(self.path + call.path, encoded=True)


class Transport:
    """Sends calls to one base URL, with one set of credentials.

    Args:
        base_url: scheme, host and perhaps a path, below which the API's is.
        credentials: the keys or the token.
        counters: where attempts and bytes are counted.
        session: the user's; if None, one is made when first needed, and closed at the end.
        proxy: an http(s) proxy for every request.
        ssl: as in aiohttp: False for no check, or a context; None for the default.
        max_body_bytes: the largest response that is read into memory, decompressed.

    Attributes:
        address: where the API is.
        credentials: the keys or the token.
    """

    def __init__(
        self,
        base_url: URL,
        credentials: Credentials,
        counters: Counters,
        *,
        session: aiohttp.ClientSession | None,
        proxy: URL | None,
        ssl: SSLContext | aiohttp.Fingerprint | bool | None,
        max_body_bytes: int,
    ) -> None:
        self.address: Address = Address.of(base_url, proxy)
        self.credentials: Credentials = credentials
        self._counters = counters
        self._session = session
        self._owned = session is None
        # A session's own headers need no merging, which is not free; but aiohttp shows them to a
        # proxy too, which must not see the keys.
        shares_headers = session is None and proxy is None
        self._max_body_bytes = max_body_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._proxy = proxy
        self._ssl = True if ssl is None else ssl
        # Middlewares of a request replace the session's: a borrowed session keeps its own.
        self._middlewares = (*getattr(session, "_middlewares", ()), self._send_once)
        self._headers = {
            hdrs.ACCEPT: "application/json",
            hdrs.USER_AGENT: USER_AGENT,
            **credentials.headers(),
        }
        self._headers_sent = None if shares_headers else self._headers

    def shown_url(self, call: Call) -> str:
        """The URL of a call for people to read: without secrets, and with few of many ids."""
        return self.address.root + self.credentials.redact(shorten_ids(_target(call)))

    def check_usable(self) -> None:
        """Make sure that requests can be sent from here and now.

        Raises:
            ClientClosedError: after :meth:`close`, or from another event loop than before.
        """
        if self._closed:
            raise ClientClosedError("this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientClosedError(
                "this client belongs to another event loop; make one client per loop,"
                " inside the coroutine that asyncio.run() runs"
            )

    async def send(
        self, call: Call, timeout: float, silence: float
    ) -> tuple[Response, Stream | None]:
        """Make one attempt; read the whole response, unless it is a success of a streamed call.

        Args:
            call: the call.
            timeout: seconds for connecting, headers and body together, unless it is streamed.
            silence: seconds without data after which reading a streamed body fails.

        Raises:
            RequestTimeoutError: if that was not enough.
            TransportError: if there was no complete response for another reason.
            DecodeError: if the body is larger than ``max_body_bytes``.
        """
        response: aiohttp.ClientResponse | None = None
        stream: Stream | None = None
        sent = False
        failure: ModelLabError
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                self._timeouts.add(limit)
                headers = self._headers_sent
                if self.credentials.changes:
                    headers = {**(headers or {}), **await self._token()}
                    self.check_usable()
                if call.headers:
                    headers = {**(headers or {}), **call.headers}
                self._counters.attempts += 1
                sent = True
                response = await self._open(call, headers)
                if call.streamed and 200 <= response.status < 300:
                    stream = Stream(response, self, silence)
                    self._streams.add(stream)
                    return Response(response.status, response.headers, b""), stream
                body = await self._read(response)
                if _requests_identity(call) and (
                    decompressor := _Decompressor.of(response.headers, self.address.host)
                ):
                    body = b"".join(decompressor.feed(body, self._max_body_bytes))
                    decompressor.check_end()
            return Response(response.status, response.headers, body), None
        # Our own errors first: `RequestTimeoutError` is an OSError, too. Then aiohttp's and the
        # socket's, among which is the TimeoutError of `limit`. aiohttp says by a RuntimeError that
        # its session is closed. A DecodeError or ConfigError, from this module, passes as it is.
        except TransportError as error:
            failure = detached(error)  # from _send_once, through aiohttp's frames
        except (aiohttp.ClientError, OSError) as error:
            failure = self.translate(error, timeout)
            if not sent:
                failure = RequestTimeoutError(
                    f"the function given as bearer_token returned no token within {timeout:.3g} s",
                    kind="not_sent",
                )
        except RuntimeError:
            if self._session is None or not self._session.closed:
                raise
            failure = ClientClosedError("the session of this client is closed")
        finally:
            self._timeouts.discard(limit)
            if response is not None and stream is None:
                response.release()
        if self._closed and self._owned:  # closing ends attempts by an error of whichever kind
            failure = ClientClosedError("this client was closed while the call was under way")
        raise failure  # outside the handler: aiohttp's errors hold the request's headers

    def drop_connection(self) -> None:
        """Close the connection that the current task's last request went over.

        Its response was of another request, so the next one on it would be, too. A borrowed
        session's connections are its owner's.
        """
        protocol = _connection.get()
        if self._owned and protocol is not None:
            protocol.close()

    def forget(self, stream: Stream) -> None:
        """Forget a stream that was closed."""
        self._streams.discard(stream)

    def received(self, size: int) -> None:
        """Count bytes of a body."""
        self._counters.bytes_received += size

    async def close(self) -> None:
        """Close an owned session and its sockets; a borrowed one is its owner's."""
        self._closed = True
        for stream in list(self._streams):
            stream.abort(ClientClosedError("this client was closed while a body was being read"))
        if self._owned:
            for limit in list(self._timeouts):  # aiohttp would leave whoever reads a body waiting
                if not limit.expired():  # one that has fired cannot be moved
                    limit.reschedule(asyncio.get_running_loop().time())
            if self._session is not None:
                await self._session.close()

    async def _token(self) -> dict[str, str]:
        """Get a token from the user's function."""
        task = asyncio.current_task()
        try:
            return await self.credentials.current_headers()
        except (ConfigError, TimeoutError):
            raise
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                raise
            failure: BaseException = error  # what it waited for was cancelled, not this call
        except Exception as error:  # noqa: BLE001  # it may raise anything
            failure = error
        raise ConfigError(
            f"the function given as bearer_token failed ({type(failure).__name__})"
        ) from failure

    def _open(
        self, call: Call, headers: dict[str, str] | None
    ) -> Awaitable[aiohttp.ClientResponse]:
        if self._session is None:
            self.check_usable()
            self._session = aiohttp.ClientSession(
                # The limiter bounds what is in flight; a second queue would only hide it.
                connector=_Connector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers if self._headers_sent is None else None,
            )
        return self._session.request(
            call.method,
            self.address.url(call),
            headers=headers,
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            ssl=self._ssl,
            middlewares=self._middlewares,
            raise_for_status=False,
            auto_decompress=not _requests_identity(call),
            allow_redirects=False,  # a redirect could carry the keys to another host
        )

    async def _send_once(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Keep aiohttp from sending a request again on its own.

        It does so if a kept connection proves dead, though on its own errors only; one of ours
        leaves the decision to the retry policy.
        """
        try:
            return await handler(request)
        except TimeoutError:
            raise  # nothing repeats it, and only the caller knows how long it took
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            failure = self.translate(error, 0)
        raise failure

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        content = response.content
        chunks: list[bytes] = []
        size = 0
        while not content.at_eof():
            chunk = content.read_nowait() if content.is_eof() else await content.readany()
            size += len(chunk)
            chunks.append(chunk)
            if size > self._max_body_bytes:
                response.close()
                if response.status >= 300:
                    break  # what an error says is in its beginning
                raise DecodeError(
                    f"the response from {self.address.host} is larger than"
                    f" {self._max_body_bytes} bytes; raise max_body_bytes if that is right,"
                    " or stream it"
                )
        self.received(size)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def translate(self, error: Exception, timeout: float) -> TransportError:
        """An error of aiohttp's as ours, naming host and cause."""
        original = f"{type(error).__name__}: {error}".removesuffix(": ")
        cause = _USERINFO.sub("://***@", self.credentials.redact(original))[:300]
        host = self.address.host
        message, error_type = f"the connection to {host} was lost", TransportError
        kind: FailureKind = "lost"
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                message, kind = f"no trusted connection to {host}", "final"
            case aiohttp.ClientConnectorDNSError():
                message, kind = f"no connection to {host}", "unresolved"
            case aiohttp.ClientConnectorError():
                message, kind = f"no connection to {host}", "not_sent"
            case aiohttp.ClientHttpProxyError(status=status):
                message = f"the proxy did not connect to {host}"
                kind = "final" if status in {401, 403, 407} else "not_sent"
            case TimeoutError():
                error_type = RequestTimeoutError
                message = f"no complete response from {host} within {timeout:.3g} s"
            case aiohttp.ClientPayloadError():
                message = f"the response from {host} was cut short"
            case aiohttp.ClientResponseError():
                message = f"the response from {host} is not HTTP"
            case _:
                pass
        return error_type(f"{message} ({cause})", kind=kind)


def _target(call: Call) -> str:
    return f"{call.path}?{call.query}" if call.query else call.path


def _requests_identity(call: Call) -> bool:
    return call.headers is not None and hdrs.ACCEPT_ENCODING in call.headers


class _Decompressor:
    """Decompresses a body that arrives compressed although it was requested as it is stored.

    aiohttp would do so as well, but would not notice that compressed data is cut short.
    """

    def __init__(self, coding: str, host: str) -> None:
        if coding not in _WINDOW_BITS:
            message = f"the response from {host} has the content coding {coding[:20]!r}"
            raise TransportError(message, kind="final")
        self._host = host
        self._window_bits = _WINDOW_BITS[coding]
        self._decompress = zlib.decompressobj(self._window_bits)

    @classmethod
    def of(cls, headers: Mapping[str, str], host: str) -> Self | None:
        """The decompressor that a response needs, if any."""
        coding = headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
        return None if coding in {"", "identity"} else cls(coding, host)

    def feed(self, data: bytes, limit: float = math.inf) -> Iterator[bytes]:
        """Decompress some more data, about a megabyte at a time."""
        size = 0
        while data:
            if self._decompress.eof:  # gzip data can have several members (RFC 1952, section 2.2)
                self._decompress = zlib.decompressobj(self._window_bits)
            try:
                part = self._decompress.decompress(data, _DECOMPRESSED_AT_ONCE)
            except zlib.error as error:
                raise TransportError(
                    f"the response from {self._host} was cut short or damaged ({error})"
                ) from None
            size += len(part)
            if size > limit:
                raise DecodeError(
                    f"the response from {self._host} is larger than {limit} bytes decompressed;"
                    " raise max_body_bytes if that is right, or stream it"
                )
            yield part
            data = self._decompress.unconsumed_tail or self._decompress.unused_data

    def check_end(self) -> None:
        """Make sure that the data is complete."""
        if not self._decompress.eof:
            raise TransportError(
                f"the response from {self._host} was cut short: its compressed data ends early"
            )


class Stream:
    """The body of one response, still arriving: an async iterator of bytes, to be closed.

    Iterating raises `TransportError` or `RequestTimeoutError` if the body breaks off.

    Attributes:
        status: the response's status, such as 206 for a part of the content.
        headers: the response's headers.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, transport: Transport, timeout: float
    ) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._transport = transport
        self._timeout = timeout
        self._on_close: list[Callable[[Exception | None], None]] = []
        self._aborted: Exception | None = None
        self._decompressor = _Decompressor.of(response.headers, transport.address.host)
        self._parts: Iterator[bytes] = iter(())

    def on_close(self, callback: Callable[[Exception | None], None]) -> None:
        """Have a function called once, when the stream is closed, with what it broke off with."""
        self._on_close.append(callback)

    def abort(self, error: Exception) -> None:
        """Raise an error in whoever reads this stream: aiohttp would leave them waiting."""
        self._aborted = error
        self._response.content.set_exception(aiohttp.ClientConnectionError(str(error)))

    def close(self, failure: Exception | None = None) -> None:
        """Release the connection; it is kept for others only if the body was read whole."""
        self._transport.forget(self)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback(failure)

    def __del__(self) -> None:
        self._response.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            while True:
                for part in self._parts:
                    if part:
                        return part
                chunk = await self._read()
                if not chunk:
                    break
                if self._decompressor is None:
                    return chunk
                self._parts = self._decompressor.feed(chunk)
            if self._decompressor is not None:
                self._decompressor.check_end()
        except ModelLabError as error:
            self.close(error)
            raise
        raise StopAsyncIteration

    async def _read(self) -> bytes:
        try:
            # aiohttp's own timeout ends with the connection, and its reader may hear of neither:
            # chunks that break leave it waiting.
            async with asyncio.timeout(self._timeout):
                chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            failure = self._aborted or self._transport.translate(error, self._timeout)
        else:
            self._transport.received(len(chunk))
            return chunk
        raise failure
