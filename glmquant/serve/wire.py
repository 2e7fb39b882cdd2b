"""The JSON of answers and errors, as OpenAI's API has it."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from glmquant.inert import inert

BAD_REQUEST: Final = 400
BUSY: Final = 503
RETRY_AFTER: Final = 5
"""Seconds; nobody knows how long the answers before will be."""

DONE: Final = b"data: [DONE]\n\n"


class ApiError(Exception):
    """What a client is told in place of an answer.

    Args:
        status: of HTTP.
        param: the field of the request that is wrong, ``messages.0.content``.
        code: one word for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(RETRY_AFTER)} if self.status == BUSY else {}

    def to_dict(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def encoded(values: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8, which a terminal acts on as little as a parser; half of a surrogate pair stays an escape."""
    return inert(json.dumps(values, ensure_ascii=False)).encode("utf-8", "backslashreplace")


def event(values: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(values) + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


@dataclass(frozen=True)
class Form:
    """What all parts of one answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, text: str, finish_reason: str, used: Mapping[str, int]) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._of("chat.completion", [choice]) | {"usage": used}

    def chunk(self, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A part of an answer that is streamed."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._of("chat.completion.chunk", [choice])

    def usage_chunk(self, used: Mapping[str, int]) -> dict[str, Any]:
        """The part that says what the answer took."""
        return self._of("chat.completion.chunk", []) | {"usage": used}

    def _of(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
