"""`GET /metrics` for Prometheus, covering all processes of the service, and counting of requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bottle

from core.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS, Readings, render
from web.status_networks import StatusNetworks

NO_ROUTE = "none"
"""The route of requests that match no route: unknown paths, wrong methods."""


class CountRequests:
    """A Bottle plugin: counts requests by the name of their route, never by their path, and status."""

    name = "count_requests"
    api = 2

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Wrap a route; Bottle calls this once per route."""
        name: str = route.name or route.rule

        def counted(*args: Any, **kwargs: Any) -> Any:
            begun, status = time.perf_counter(), 500
            try:
                answer = callback(*args, **kwargs)
                status = getattr(answer, "status_code", 200)
                return answer
            except bottle.HTTPResponse as answer:
                status = answer.status_code
                raise
            finally:
                HTTP_REQUEST_SECONDS.observe(time.perf_counter() - begun, name)
                HTTP_REQUESTS.count(name, str(status))

        return counted


def count_without_route(answer: Callable[[bottle.HTTPError], bottle.HTTPResponse]) -> Callable[..., Any]:
    """Return Bottle's error handler `answer`, counting requests that no route has counted."""

    def counted(raised: bottle.HTTPError) -> bottle.HTTPResponse:
        if "bottle.route" not in bottle.request.environ:
            HTTP_REQUESTS.count(NO_ROUTE, str(raised.status_code))
        return answer(raised)

    return counted


def install(app: bottle.Bottle, networks: StatusNetworks, read: Callable[[], Readings] = dict) -> None:
    """Add the route of this module. `read` returns gauges to show with the recorded metrics."""

    def metrics() -> bottle.HTTPResponse:
        text, content_type = render(read())
        return bottle.HTTPResponse(text, 200, {"Content-Type": content_type})

    app.route("/metrics", "GET", metrics, name="metrics", apply=[networks.limit])
