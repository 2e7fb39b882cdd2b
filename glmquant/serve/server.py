"""Listening, and serving until a signal ends it."""

import logging
import socket
from ipaddress import ip_address
from threading import Event
from types import FrameType
from typing import Final, Self

import uvicorn

from glmquant.errors import ServeError
from glmquant.serve.app import make_app
from glmquant.serve.engine import Engine

MOST_CONNECTIONS: Final = 256
MOST_HEADER_BYTES: Final = 1 << 16
LAST_SECONDS: Final = 5
"""For answers to be broken off between two tokens, once the server is to end."""


class Listener:
    """A socket that listens.

    Args:
        host: name or address; an empty one for all addresses of this machine.
        port: 0 for any that is free.

    Attributes:
        url: where it is reached.
        is_loopback: whether from this machine alone.

    Raises:
        ServeError: no such address, or it is taken.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.socket = socket.create_server(address[:2], family=family)
        except (OSError, UnicodeError, OverflowError) as error:
            told = getattr(error, "strerror", None) or str(error)
            raise ServeError(
                f"cannot listen: {told}",
                where=f"{host}, port {port}",
                expected="an address of this machine, and a port that nobody listens at",
                hint="give another port, or 0 for any that is free",
            ) from error
        bound, number = self.socket.getsockname()[:2]
        self.is_loopback = ip_address(bound.partition("%")[0]).is_loopback
        self.url = f"http://[{bound}]:{number}" if ":" in bound else f"http://{bound}:{number}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.socket.close()


def serve(engine: Engine, listener: Listener, longest_line: int) -> None:
    """Serve until SIGINT or SIGTERM, which is raised again once all is closed."""
    ending = Event()
    app = make_app(engine, longest_line=longest_line, only_loopback=listener.is_loopback, ending=ending)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    logger, handler = logging.getLogger("uvicorn.error"), _Passed()
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    try:
        _Server(config, ending).run(sockets=[listener.socket])
    finally:
        logger.removeHandler(handler)


class _Server(uvicorn.Server):
    """Tells answers of the signal."""

    def __init__(self, config: uvicorn.Config, ending: Event) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending.set()
        super().handle_exit(sig, frame)


class _Passed(logging.Handler):
    """Errors of uvicorn join the notes of glmquant; what it warns of is what a client did, and the client is told."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("glmquant").handle(record)
