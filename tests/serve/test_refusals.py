"""What no answer can be given to: one status, and one error in OpenAI's form that names the field."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from glmquant.serve import body
from tests.support.served import CHAT, JSON, Served

USER = {"role": "user", "content": "a"}

REFUSED: dict[str, tuple[dict[str, Any], str | None]] = {
    "no messages": ({"messages": None}, "messages"),
    "messages of no kind": ({"messages": "hello"}, "messages"),
    "too many wrong messages": ({"messages": [5] * 10_000}, "messages.0"),
    "too many messages": ({"messages": [USER] * 20_000}, "messages"),
    "another role": ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
    "a name": ({"messages": [USER | {"name": "Bob"}]}, "messages.0.name"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    "no text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content"),
    "half a pair": ({"messages": [{"role": "user", "content": "a\ud800"}]}, "messages"),
    "a system message": ({"messages": [{"role": "developer", "content": "x"}, USER]}, "messages"),
    "a template that alternates": ({"messages": [USER, USER]}, "messages"),
    "more than the context": ({"messages": [{"role": "user", "content": "x" * 1_000_000}]}, "messages"),
    "just more": ({"messages": [{"role": "user", "content": "软件" * 2_000}]}, "messages"),
    "more new tokens": ({"max_tokens": 1020}, "max_tokens"),
    "two limits": ({"max_completion_tokens": 5}, None),
    "no token": ({"max_tokens": 0}, "max_tokens"),
    "true for a number": ({"max_tokens": True}, "max_tokens"),
    "text for a number": ({"temperature": "1"}, "temperature"),
    "cold": ({"temperature": -1}, "temperature"),
    "no finite number": ({"temperature": 10**400}, "temperature"),
    "NaN": ({"temperature": float("nan")}, None),
    "infinite": ({"top_p": float("inf")}, None),
    "no share": ({"top_p": 0}, "top_p"),
    "a negative seed": ({"seed": -2}, "seed"),
    "a seed of 70 bits": ({"seed": 2**70}, "seed"),
    "an empty stop": ({"stop": ["a", ""]}, "stop.1"),
    "10,000 stops": ({"stop": ["a"] * 10_000}, "stop"),
    "10,000 wrong stops": ({"stop": [1] * 10_000}, "stop.0"),
    "a long stop": ({"stop": "a" * 1000}, "stop.0"),
    "thinking": ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
    "tools": ({"tools": [{"type": "function"}]}, "tools"),
    "two answers": ({"n": 2}, "n"),
    "true answers": ({"n": True}, "n"),
    "probabilities": ({"logprobs": True}, "logprobs"),
    "JSON": ({"response_format": {"type": "json_object"}}, "response_format.type"),
    "a penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "sound": ({"modalities": ["text", "audio"]}, "modalities.1"),
    "effort": ({"reasoning_effort": "high"}, "reasoning_effort"),
    "an unknown field": ({"\x1b[31m": 1}, "\x1b[31m"),
    "unknown fields": ({f"k{i}": 1 for i in range(10_000)}, None),
    "options of a stream without one": ({"stream_options": {"include_usage": True}}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_and_named(server: Served, case: tuple[dict[str, Any], str | None]) -> None:
    fields, param = case
    status, values = server.chat(**fields)
    error = values["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"]
    assert error["code"]


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe{}", b"[]", b"{" * 9999, b"[" * 999_999, b'{"n": 1, "n": 1}'])
def test_what_is_no_json_object_is_refused(server: Served, raw: bytes) -> None:
    status, values, _ = server.request("POST", CHAT, raw, JSON)
    assert (status, values["error"]["code"]) == (400, "invalid_json")


def test_other_models_addresses_methods_and_types_are_refused(server: Served) -> None:
    status, values = server.chat(model="gpt-4")
    assert (status, values["error"]["code"]) == (404, "model_not_found")
    for method, path, expected in [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("POST", CHAT, 415)]:
        status, values, _ = server.request(method, path, b"{}" if method == "POST" else None)
        assert status == expected
        assert values["error"]["message"]


def test_a_body_is_bounded_whether_it_says_its_length_or_not(server: Served) -> None:
    whole = b" " * (body.MOST_BYTES + 1)
    assert server.request("POST", CHAT, whole, JSON)[0] == 413
    connection = server.connection()
    connection.request("POST", CHAT, iter([whole[:-1], whole[:1]]), JSON, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    within = json.dumps({"messages": [USER], "max_tokens": 1}).encode() + whole[: 1 << 20]
    connection = server.connection()
    connection.request("POST", CHAT, iter([within[:10], within[10:]]), JSON, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1", "", "a@localhost.evil"]
)
def test_a_name_of_another_machine_is_refused(server: Served, host: str) -> None:
    status, values, _ = server.request("GET", "/v1/models", headers={"Host": host})
    assert (status, values["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_the_names_of_this_machine_are_taken(server: Served, host: str) -> None:
    assert server.request("GET", "/v1/models", headers={"Host": host})[0] == 200


def test_no_page_of_another_site_is_let_in(server: Served) -> None:
    origin = {"Origin": "https://evil.example"}
    assert "access-control-allow-origin" not in server.request("GET", "/v1/models", headers=origin)[2]
    asked = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, _, headers = server.request("OPTIONS", CHAT, headers=asked)
    assert status == 405
    assert "access-control-allow-origin" not in headers


def test_what_is_no_http_ends_the_connection_alone(server: Served) -> None:
    place = urlsplit(server.url)
    for raw in (
        b"\x16\x03\x01\x00\xa5",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"::error::pwned\x1b[31m\r\n\r\n",
    ):
        with socket.create_connection((place.hostname, place.port), timeout=60) as client:
            client.sendall(raw + b"\r\n\r\n")
            answer = client.recv(99)
            assert not answer or b" 400 " in answer
    assert server.chat()[0] == 200


def test_what_clients_send_is_logged_inertly(server: Served) -> None:
    server.chat(model="\x1b[31m\n::error::pwned")
    server.chat(**{"\x1b[31m\n::error::pwned": 1})
    said = server.said.read_text()
    assert "pwned" in said
    assert "\x1b" not in said
    assert not any(line.startswith("::") for line in said.splitlines())
