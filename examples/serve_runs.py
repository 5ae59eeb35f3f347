"""A web service that serves runs from one shared client.

    python examples/serve_runs.py
    curl localhost:8080/runs/70158
    curl 'localhost:8080/runs?ids=70158,71354'

All requests of the service share the connections and the limiter of one client. It is opened when
the service starts, on its event loop, and closed when it stops.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from modellab_async import (
    InvalidIdError,
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    RateLimitedError,
    RetryPolicy,
    to_dict,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import Handler

LAB: Final = web.AppKey("lab", ModelLabClient)
routes = web.RouteTableDef()


@routes.get("/runs/{run_id}")
async def one_run(request: web.Request) -> web.Response:
    """One run, as the API's own resource."""
    run = await request.app[LAB].runs.get(request.match_info["run_id"])
    return web.Response(body=to_json(run), content_type="application/json")


@routes.get("/runs")
async def many_runs(request: web.Request) -> web.Response:
    """Up to 1,000 runs in the order of the ids, with an error in place of each that failed."""
    run_ids = request.query.get("ids", "").split(",")[:1_000]
    answers: list[dict[str, Any]] = []
    # If the caller disconnects, this handler is cancelled, and with it all that it fetches.
    async with request.app[LAB].runs.fetch(run_ids, ordered=True) as outcomes:
        async for outcome in outcomes:
            if outcome.run is not None:
                answers.append(to_dict(outcome.run))
            else:
                answers.append({"id": outcome.run_id, "error": type(outcome.error).__name__})
    return web.json_response(answers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the errors of the client into responses of this service."""
    try:
        return await handler(request)
    except InvalidIdError as error:
        return _failure(400, error)
    except NotFoundError as error:
        return _failure(404, error)
    except RateLimitedError as error:
        return _failure(503, error, {"Retry-After": f"{error.retry_after or 1:.0f}"})
    except ModelLabError as error:
        return _failure(502, error)


def _failure(
    status: int, error: ModelLabError, headers: dict[str, str] | None = None
) -> web.Response:
    body = json.dumps({"error": str(error)})
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)


def make_app(**options: Any) -> web.Application:
    """The service; the options are those of `ModelLabClient`."""

    async def lifespan(app: web.Application) -> AsyncIterator[None]:
        # Callers of a web service do not wait two minutes, the default deadline of a call.
        options.setdefault("retry", RetryPolicy(attempts=4, deadline=10, max_rate_limit_wait=10))
        async with ModelLabClient(**options) as lab:
            app[LAB] = lab
            yield

    app = web.Application(middlewares=[errors_as_json])
    app.cleanup_ctx.append(lifespan)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    web.run_app(
        make_app(base_url=os.environ.get("MODELLAB_BASE_URL")),
        port=int(os.environ.get("PORT", "8080")),
        handler_cancellation=True,  # stop working for callers that have disconnected
    )
