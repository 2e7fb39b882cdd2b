"""A server in a process of its own, as a user starts it, and requests to it over a real connection."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"


@dataclass
class Served:
    """A server that listens; ``said`` is the file of its stderr."""

    process: "subprocess.Popen[str]"
    url: str
    model: str
    max_length: int
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
def served(bundle: Path, directory: Path, *options: object) -> Iterator[Served]:
    """Started, and ended by SIGTERM where it still runs."""
    said = directory / "stderr"
    command = [sys.executable, "-m", "glmquant", "serve", str(bundle), "--port", "0", "--json", *map(str, options)]
    with said.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, said.read_text()
        facts = json.loads(line)
        yield Served(process, facts["url"], facts["model"], facts["max_length"], said)
    finally:
        process.terminate()
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()
