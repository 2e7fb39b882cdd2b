"""A server in a process of its own, as a user starts it, and requests to it over a real connection."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
ENDLESS = {
    "messages": [{"role": "user", "content": "什么是软件包？"}],
    "temperature": 1e9,
    "seed": 1,
    "max_tokens": 1000,
    "stream": True,
}
"""Every token is as likely as any other; with this seed the demo model's answer does not end before."""


CODE = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom glmquant.cli import main\nmain()"
"""``glmquant`` that heeds an interrupt; a job in the background would not."""


@dataclass
class Served:
    """A server that listens.

    Attributes:
        told: what it said first, on stdout.
        said: the file of its stderr.
    """

    process: "subprocess.Popen[str]"
    url: str
    told: str
    said: Path

    def connection(self) -> HTTPConnection:
        place = urlsplit(self.url)
        return HTTPConnection(place.hostname or "", place.port, timeout=60)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or text, and headers."""
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text, named = answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
        is_json = named.get("content-type") == "application/json"
        return answer.status, json.loads(text) if is_json else text, named

    def chat(self, **fields: Any) -> tuple[int, Any]:
        """A request for an answer to one message, unless fields say otherwise; status and JSON."""
        asked = {"messages": [{"role": "user", "content": "A file is"}], "max_tokens": 4} | fields
        status, values, _ = self.request("POST", CHAT, json.dumps(asked), JSON)
        return status, values

    @contextmanager
    def stream(self, **fields: Any) -> Iterator[HTTPResponse]:
        """An answer that comes in parts; the client leaves at the end of the context."""
        connection = self.connection()
        connection.request("POST", CHAT, json.dumps(ENDLESS | fields), JSON)
        answer = connection.getresponse()
        try:
            yield answer
        finally:
            answer.close()
            connection.close()

    def until_said(self, words: str) -> str:
        """The first line of stderr that has the words; waits for it as long as the process runs."""
        while True:
            for line in self.said.read_text().splitlines():
                if words in line:
                    return line
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.01)


@contextmanager
def served(
    bundle: Path,
    directory: Path,
    *options: object,
    program: tuple[str, ...] = ("-c", CODE),
    as_json: bool = True,
) -> Iterator[Served]:
    """Started, and ended by SIGTERM where it still runs."""
    said = directory / "stderr"
    command = [sys.executable, *program, "serve", str(bundle), *map(str, options), *(["--json"] if as_json else [])]
    with said.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(1 if as_json else 5)]
        assert told[0], said.read_text()
        url = json.loads(told[0])["url"] if as_json else told[1].split()[1]
        yield Served(process, url, "".join(told), said)
    finally:
        process.terminate()
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()
