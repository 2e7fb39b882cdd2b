"""The body of a request: JSON of a bounded size, in bounded time."""

from typing import Final

from anyio import fail_after
from starlette.requests import Request

from glmquant.serve.wire import ApiError

MOST_BYTES: Final = 4 << 20
"""Several times the messages that fill a context of 128,000 tokens."""

SLOWEST: Final = 30.0
"""Seconds that a client may take to send its request."""


async def read_body(request: Request) -> bytes:
    """Raises ApiError: no JSON by its type, too large, too slow.

    A page of another site can send text to this address, but JSON only where it is asked first, and it is not.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the request must have the header Content-Type: application/json", code="unsupported_type")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MOST_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        with fail_after(SLOWEST):
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, f"the request took more than {SLOWEST:.0f} s to arrive", code="timeout") from None
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than {MOST_BYTES:,} bytes", code="request_too_large")
