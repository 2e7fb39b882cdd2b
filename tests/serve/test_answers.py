"""Answers in OpenAI's form, by curl, by plain HTTP and by the official client."""

import json
import shutil
import subprocess
from typing import Any

import openai
import pytest

import glmquant as gq
from tests.support.served import CHAT, JSON, Served

ASKED = [{"role": "user", "content": "什么是软件包？"}]
LONG = {"messages": ASKED, "temperature": 1.5, "seed": 3, "max_tokens": 12}
"""The demo model answers in one word, unless it draws."""


def chunks(text: str) -> list[Any]:
    """The events of a stream, [DONE] left out."""
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def streamed(server: Served, **fields: Any) -> list[Any]:
    status, text, headers = server.request("POST", CHAT, json.dumps(LONG | {"stream": True} | fields), JSON)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return chunks(text)


def content(values: Any) -> str:
    return str(values["choices"][0]["message"]["content"])


def test_an_answer_is_what_chat_says(server: Served, bundle: Any) -> None:
    options = gq.GenerationOptions(12, temperature=1.5, seed=3)
    said = "".join(gq.generate(bundle, "什么是软件包？", options=options))
    status, values = server.chat(**LONG)
    assert (status, content(values)) == (200, said)
    assert values["object"] == "chat.completion"
    assert values["model"] == "demo-model"
    assert values["choices"][0]["finish_reason"] == "length"
    used = values["usage"]
    assert used["completion_tokens"] == 12
    assert used["total_tokens"] == used["prompt_tokens"] + 12
    parts = streamed(server)
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == said
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [part["choices"][0]["finish_reason"] for part in parts[-2:]] == [None, "length"]
    assert len({part["id"] for part in parts}) == 1
    assert "usage" not in parts[-1]


def test_a_stream_tells_its_usage_where_that_is_asked_for(server: Served) -> None:
    *parts, last = streamed(server, stream_options={"include_usage": True})
    assert {part["usage"] for part in parts} == {None}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12


def test_an_answer_ends_by_the_model_or_before_a_stop_string(server: Served) -> None:
    _, values = server.chat()
    assert values["choices"][0]["finish_reason"] == "stop"
    assert values["usage"]["completion_tokens"] < 4
    said = content(server.chat(**LONG)[1])
    for stop in (said[5], ["nowhere in it", said[5]]):
        _, cut = server.chat(**LONG, stop=stop)
        assert content(cut) == said[: said.index(said[5])]
        assert cut["choices"][0]["finish_reason"] == "stop"


def test_a_seed_gives_the_answer_again_and_another_another(server: Served) -> None:
    first, again, other = (content(server.chat(**LONG | {"seed": seed})[1]) for seed in (3, 3, 4))
    assert first == again != other


def test_what_changes_nothing_is_taken(server: Served) -> None:
    neutral = {
        "n": 1, "logprobs": False, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"},
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "me", "metadata": {"a": "b"},
        "model": "demo-model", "reasoning_effort": None, "max_completion_tokens": 12,
    }  # fmt: skip
    parts = [{"type": "text", "text": "什么是软件包？"}]
    asked = LONG | neutral | {"messages": [{"role": "user", "content": parts, "name": None}]}
    assert content(server.chat(**asked)[1]) == content(server.chat(**LONG)[1])


def test_turns_join_the_conversation(server: Served) -> None:
    turns = [*ASKED, {"role": "assistant", "content": "一个", "refusal": None, "tool_calls": []}, *ASKED]
    status, values = server.chat(messages=turns)
    assert status == 200
    assert values["usage"]["prompt_tokens"] > server.chat(messages=ASKED)[1]["usage"]["prompt_tokens"]


def test_a_request_that_names_no_limit_has_the_rest_of_the_context(server: Served) -> None:
    assert json.loads(server.told) == {"url": server.url, "model": "demo-model", "max_length": 1024}
    long = [{"role": "user", "content": "软件" * 1000}]
    status, values = server.chat(messages=long, max_tokens=None, temperature=9.0, seed=1)
    assert status == 200
    assert values["usage"]["total_tokens"] <= 1024


def test_the_model_is_listed_and_the_server_is_well(server: Served) -> None:
    (model,) = server.request("GET", "/v1/models")[1]["data"]
    assert (model["id"], model["object"]) == ("demo-model", "model")
    assert server.request("GET", "/health")[1] == {"status": "ok", "waiting": 0}


def test_the_official_client_is_answered(server: Served) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["demo-model"]
        answer = client.chat.completions.create(model="demo-model", **LONG)  # type: ignore[call-overload]
        assert answer.usage.completion_tokens == 12
        stream = client.chat.completions.create(  # type: ignore[call-overload]
            model="demo-model", stream=True, stream_options={"include_usage": True}, **LONG
        )
        parts = list(stream)
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text == answer.choices[0].message.content
        assert parts[-1].usage == answer.usage
        with pytest.raises(openai.BadRequestError, match="tools is not supported") as refused:
            client.chat.completions.create(model="demo-model", tools=[{"type": "function"}], **LONG)  # type: ignore[call-overload]
        assert refused.value.param == "tools"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="another", messages=ASKED)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_answered(server: Served) -> None:
    command = ["curl", "-sSN", "--fail-with-body", f"{server.url}{CHAT}", "--json", json.dumps(LONG | {"stream": True})]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert chunks(done.stdout)[-1]["choices"][0]["finish_reason"] == "length"
