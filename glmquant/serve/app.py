"""What the server has at which address, and to whom it speaks."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from glmquant.serve.completions import Completions
from glmquant.serve.engine import Engine
from glmquant.serve.line import Line
from glmquant.serve.wire import ApiError, encoded

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
PAGE: Final = files("glmquant.serve").joinpath("page.html")


def make_app(engine: Engine, *, longest_line: int, only_loopback: bool, ending: Event) -> ASGIApp:
    """The ASGI application.

    Args:
        longest_line: how many requests may wait while one is answered.
        only_loopback: refuse requests that name another host, which pages of strangers could make a browser send here
            (DNS rebinding).
        ending: set once the server is to end.
    """
    line = Line(longest_line)
    page, policy = _page()

    async def home(request: Request) -> Response:
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    async def models(request: Request) -> Response:
        only = {"id": engine.name, "object": "model", "created": engine.created, "owned_by": "glmquant"}
        return _json({"object": "list", "data": [only]})

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "waiting": line.waiting})

    routes = [
        Route("/", home),
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", Completions(engine, line, ending), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    return OnlyLoopback(app) if only_loopback else app


class OnlyLoopback:
    """Passes on what is meant for this machine by its name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = Request(scope).headers.getlist("host")
        if len(named) == 1 and _hostname(named[0]) in LOOPBACK:
            await self._app(scope, receive, send)
            return
        error = ApiError(403, f"this server is reached by the names {', '.join(LOOPBACK)} alone", code="wrong_host")
        await _json(error.to_dict(), error.status)(scope, receive, send)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _http_error(request: Request, error: Exception) -> Response:
    """No such address, or another method, in the API's form."""
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, str(error.detail), code="not_found" if error.status_code == 404 else None)
    return _json(told.to_dict(), error.status_code, error.headers)


def _json(values: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(values), status, headers, "application/json")


def _page() -> tuple[str, str]:
    """The page, and a policy by which it loads nothing, runs its own script alone, and is shown in no other page."""
    page = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page, (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
