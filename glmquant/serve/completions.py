"""``POST /v1/chat/completions``: from the body of a request to the last byte of its answer.

The model computes in a thread, a piece of text at a time. Where the client leaves, is too slow to read, or the server
is to end, the token that is being computed is the last.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Final

from anyio import CancelScope, create_task_group, fail_after
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from glmquant.errors import GlmQuantError
from glmquant.serve.body import read_body
from glmquant.serve.engine import Answer, Engine, UnwantedError
from glmquant.serve.line import Line
from glmquant.serve.request import ChatRequest, parse_request
from glmquant.serve.wire import BUSY, DONE, ApiError, Form, encoded, event, usage

LOGGER: Final = logging.getLogger("glmquant")
SLOWEST_READER: Final = 30.0
"""Seconds in which a client must take what was sent before."""

SILENT: Final = ("cache-control", "no-store")
FAULT: Final = 500
LEFT: Final = "the client left"


class Reply:
    """What goes to one client.

    Attributes:
        status: of HTTP; 0 until it was sent.
        answer: that is generated; None until then.
    """

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0
        self.answer: Answer | None = None

    @property
    def tokens(self) -> str:
        """What was computed, for the log."""
        if self.answer is None:
            return ""
        return f"{self.answer.prompt_tokens} + {self.answer.completion_tokens} tokens, "

    async def begin(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        pairs = [("content-type", kind), SILENT, *(headers or {}).items()]
        named = [(name.encode(), value.encode()) for name, value in pairs]
        await self._send({"type": "http.response.start", "status": status, "headers": named})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Raises TimeoutError where the client does not read."""
        with fail_after(SLOWEST_READER):
            await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        await self.begin(status, "application/json", {"content-length": str(len(data)), **(headers or {})})
        await self.write(data, more=False)

    async def refuse(self, error: ApiError) -> None:
        """As a status of its own, or within a stream that has begun: it then ends without ``[DONE]``."""
        if self.status:
            await self.write(event(error.to_dict()), more=False)
        else:
            await self.whole(error.status, encoded(error.to_dict()), error.headers)


class Completions:
    """The endpoint, as an ASGI application.

    Args:
        ending: set once the server is to end.
    """

    def __init__(self, engine: Engine, line: Line, ending: Event) -> None:
        self._engine, self._line, self._ending = engine, line, ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply, began = Reply(send), time.monotonic()
        try:
            told = await self._served(Request(scope, receive), reply)
        except ApiError as error:
            told = error.message
            await reply.refuse(error)
        except (ClientDisconnect, TimeoutError, UnwantedError):
            told = LEFT
        except Exception as error:
            LOGGER.error("a fault of glmquant itself", exc_info=error)
            told = "a fault of the server"
            await reply.refuse(ApiError(FAULT, told, code="internal_error"))
        LOGGER.info("%s, %s%s, %.1f s", reply.status or "no answer", reply.tokens, told, time.monotonic() - began)

    async def _served(self, request: Request, reply: Reply) -> str:
        """Says in a word how that ended."""
        asked = await run_sync(parse_request, await read_body(request))
        if asked.model not in (None, self._engine.name):
            message = f"there is no model {asked.model[:100]!r}; this server has {self._engine.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        gone, failed, told = Event(), None, LEFT
        async with create_task_group() as group:
            group.start_soon(_watch, request, gone, group.cancel_scope)
            try:
                async with self._line.turn():
                    told = await self._answered(asked, reply, gone)
            except Exception as error:  # raised below, rather than in a group of its own
                failed = error
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return told

    async def _answered(self, asked: ChatRequest, reply: Reply, gone: Event) -> str:
        if self._ending.is_set():
            raise _ending()
        question = await run_sync(self._engine.question, asked)
        answer = reply.answer = self._engine.answer(question, lambda: not gone.is_set() and not self._ending.is_set())
        form, pieces = Form(self._engine.name), answer.pieces()
        with self._failures():
            if asked.stream:
                with_usage = asked.stream_options is not None and asked.stream_options.include_usage
                await _streamed(form, answer, pieces, reply, with_usage)
            else:
                text = await run_sync("".join, pieces)
                used = usage(answer.prompt_tokens, answer.completion_tokens)
                await reply.whole(200, encoded(form.completion(text, answer.finish_reason, used)))
        return answer.finish_reason

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raises ApiError where the model fails, or the server ends."""
        try:
            yield
        except UnwantedError:
            if not self._ending.is_set():
                raise
            raise _ending() from None
        except GlmQuantError as error:
            LOGGER.error("%s", error)
            raise ApiError(FAULT, f"the model failed: {error.what}", code="model_failed") from None


async def _streamed(form: Form, answer: Answer, pieces: Iterator[str], reply: Reply, with_usage: bool) -> None:
    """Server-sent events; a model that fails at once is refused with a status of its own."""
    first = await run_sync(next, pieces, "")
    rest = {"usage": None} if with_usage else {}
    await reply.begin(200, "text/event-stream; charset=utf-8")
    await reply.write(event(form.chunk({"role": "assistant", "content": first}) | rest))
    while (piece := await run_sync(next, pieces, None)) is not None:
        await reply.write(event(form.chunk({"content": piece}) | rest))
    await reply.write(event(form.chunk({}, answer.finish_reason) | rest))
    if with_usage:
        used = usage(answer.prompt_tokens, answer.completion_tokens)
        await reply.write(event(form.usage_chunk(used)))
    await reply.write(DONE, more=False)


async def _watch(request: Request, gone: Event, scope: CancelScope) -> None:
    """Ends the scope when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
    scope.cancel()


def _ending() -> ApiError:
    return ApiError(BUSY, "the server is ending", code="server_ending")
