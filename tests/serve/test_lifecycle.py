"""How a server begins, who waits, what happens when a client leaves, and how it ends."""

import importlib
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.requests import Request

import glmquant as gq
from glmquant.serve import body, completions
from glmquant.serve.completions import Reply
from glmquant.serve.engine import Engine, UnwantedError
from glmquant.serve.line import Line
from glmquant.serve.request import parse_request
from glmquant.serve.server import Listener
from glmquant.serve.wire import ApiError
from tests.hints.follow import follows, refused
from tests.support.served import ENDLESS, Served, served
from tests.test_cli import glmquant

APART = ("torch", "scipy", "transformers", "onnx", "huggingface_hub")
PROGRAM = f"""
import sys
from glmquant.cli import main
try: main()
except SystemExit as end:
    print(f"exit code {{end.code}}, imported", *[m for m in {APART} if m in sys.modules], file=sys.stderr)
"""


def test_where_a_client_leaves_the_generation_stops(server: Served) -> None:
    with server.stream() as answer:
        assert answer.readline().startswith(b"data: ")
    line = server.until_said("the client left")
    assert 0 < int(line.split(" + ")[1].split()[0]) < 1000
    assert server.chat()[0] == 200


def test_the_token_that_is_computed_is_the_last(bundle: Path) -> None:
    engine = Engine.open(bundle, gq.GenerationOptions(), None, "cpu")
    wanted = [True]
    answer = engine.answer(engine.question(parse_request(json.dumps(ENDLESS).encode())), lambda: wanted[0])
    pieces = answer.pieces()
    next(pieces)
    before = answer.completion_tokens
    wanted[0] = False
    with pytest.raises(UnwantedError):
        next(pieces)
    assert answer.completion_tokens == before + 1


def test_one_is_answered_one_waits_and_others_are_told_to_come_again(server: Served) -> None:
    waited: list[Any] = []
    with server.stream() as answer:
        answer.readline()
        second = threading.Thread(target=lambda: waited.append(server.chat()))
        second.start()
        while server.request("GET", "/health")[1]["waiting"] != 1:
            assert second.is_alive(), "it is answered, and does not wait"
        asked = json.dumps({"messages": ENDLESS["messages"]})
        status, values, headers = server.request(
            "POST", "/v1/chat/completions", asked, {"Content-Type": "application/json"}
        )
        assert (status, values["error"]["code"], values["error"]["type"]) == (503, "queue_full", "server_error")
        assert int(headers["retry-after"]) > 0
        assert waited == []
    second.join()
    assert waited[0][0] == 200


def test_whoever_leaves_the_line_gives_up_the_place(server: Served) -> None:
    before = len(left(server))
    with server.stream() as answer:
        answer.readline()
        with socket.create_connection(address(server)) as waiting:
            send_raw(waiting, server)
            while server.request("GET", "/health")[1]["waiting"] != 1:
                assert not select.select([waiting], [], [], 0)[0], "it is answered, and does not wait"
        while len(left(server)) == before:
            assert server.process.poll() is None
        assert left(server)[before].startswith("no answer, the client left"), "it had a turn"
        assert server.request("GET", "/health")[1]["waiting"] == 0
    assert server.chat()[0] == 200


def left(server: Served) -> list[str]:
    """What was said of clients that left."""
    return [line for line in server.said.read_text().splitlines() if "the client left" in line]


def address(server: Served) -> tuple[str, int]:
    connection = server.connection()
    return connection.host, connection.port


def send_raw(client: socket.socket, server: Served) -> None:
    sent = json.dumps(ENDLESS).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    client.sendall("\r\n".join([*head, f"Content-Length: {len(sent)}", "", ""]).encode() + sent)


def test_the_line_is_kept_in_order() -> None:
    served_numbers: list[int] = []

    async def one(line: Line, number: int) -> None:
        async with line.turn():
            await anyio.sleep(0)
            served_numbers.append(number)

    async def all_of_them() -> None:
        line = Line(9)
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, line, number)
        with pytest.raises(ApiError):
            async with Line(-1).turn():
                pass
        assert line.waiting == 0

    anyio.run(all_of_them)
    assert served_numbers == [*range(10)]


def test_many_clients_at_once_each_have_an_answer_or_are_told(server: Served) -> None:
    statuses: list[int] = []
    clients = [threading.Thread(target=lambda: statuses.append(server.chat()[0])) for _ in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert set(statuses) <= {200, 503}
    assert len(statuses) == 12
    assert 200 in statuses


def test_a_client_that_sends_or_reads_too_slowly_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SLOWEST", 0)
    monkeypatch.setattr(completions, "SLOWEST_READER", 0)
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}

    async def never(*_: Any) -> Any:
        await anyio.sleep_forever()

    with pytest.raises(ApiError) as slow:
        anyio.run(body.read_body, Request(scope, never))
    assert slow.value.status == 408
    with pytest.raises(TimeoutError):
        anyio.run(Reply(never).write, b"")


def test_it_says_how_to_call_it_and_ends_answers_at_sigterm(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--port", 0, program=("-c", PROGRAM), as_json=False) as server:
        assert server.told.startswith("serving demo-model, linear layers of 8 bits")
        (call,) = re.findall(r"^  (curl .*)$", server.told, re.MULTILINE)
        done = subprocess.run(["sh", "-ec", call], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["object"] == "chat.completion"
        with server.stream() as answer:
            answer.readline()
            server.process.send_signal(signal.SIGTERM)
            last = answer.read().decode().rstrip().rpartition("data: ")[2]
        assert json.loads(last)["error"]["code"] == "server_ending"
        server.process.wait(timeout=60)
        assert server.said.read_text().endswith("terminated\nexit code 143, imported\n")


def test_where_others_can_reach_it_that_is_said(bundle: Path, tmp_path: Path) -> None:
    options = ("--host", "0.0.0.0", "--port", 0, "--quiet", "--max-new-tokens", 2, "--temperature", 1e9)
    with served(bundle, tmp_path, *options) as server:
        assert server.request("GET", "/health", headers={"Host": "another.example"})[0] == 200
        assert server.chat(max_tokens=None)[1]["usage"]["completion_tokens"] <= 2
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 130
        warning, ending = server.said.read_text().splitlines()
        assert "there is no password" in warning
        assert ending == "interrupted"


@follows("give another port, or 0 for any that is free")
def test_a_port_that_is_taken_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Listener("127.0.0.1", 0) as taken:
        port = taken.socket.getsockname()[1]
        refused(lambda: Listener("127.0.0.1", port))
        assert glmquant("serve", bundle, "--port", port) == 2
        assert f"where: 127.0.0.1, port {port}" in capsys.readouterr().err
    with Listener("127.0.0.1", 0) as free:
        assert free.is_loopback
    refused(lambda: Listener("no.such.host.invalid", 0))


@follows("pip install 'glmquant[serve]'")
def test_without_the_extra_the_command_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("glmquant.serve")]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "uvicorn", None)
        assert glmquant("serve", bundle) == 2
    assert "pip install 'glmquant[serve]'" in capsys.readouterr().err
    assert importlib.import_module("glmquant.serve.server")
