"""A small hub on loopback, which speaks what huggingface_hub asks, and misbehaves where a test wants it to."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 20_000
"""Bytes from which on a file is stored as a large one, named by its sha256."""

COMMIT = "3a1f0c" + "0" * 34
WEIGHTS = re.compile(r".*\.(bin|safetensors)")


@dataclass
class Repository:
    """Files by name, and the commit that each revision is."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})

    @staticmethod
    def of(directory: Path, *extra: str) -> "Repository":
        """A checkpoint as its publisher would upload it, with files beside it that nobody needs."""
        files = {path.name: path.read_bytes() for path in directory.iterdir() if "expected" not in path.name}
        return Repository(files | dict.fromkeys(extra, b"not needed"))


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


Fault = Callable[["Handler"], bool]
"""Answers a request in its own way and gives True, or gives False for the honest answer."""


@dataclass
class Hub:
    """What is on the hub, what was asked of it, and how it misbehaves: by the end of a request's path."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files on their way into a commit, by sha256."""

    @property
    def content_address(self) -> str:
        """Where large files are: another host, as far as clients can tell."""
        return self.address.replace("127.0.0.1", "localhost")

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        return [
            unquote(r.path).rpartition("/")[2] for r in self.requests if "/resolve/" in r.path and r.method == "GET"
        ]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def is_large(name: str, content: bytes) -> bool:
    return len(content) >= LARGE or WEIGHTS.fullmatch(name) is not None


def hash_of(name: str, content: bytes) -> str:
    return sha256(content) if is_large(name, content) else git_sha1(content)


def sibling(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if is_large(name, content):
        entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests want."""


@contextmanager
def running() -> Iterator[Hub]:
    server = Server(("127.0.0.1", 0), Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    server: Server

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:
        """What a client uploads: a repository made, how each file is to come, large files, a commit."""
        path = urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, path, None, self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if any(path.endswith(end) and fault(self) for end, fault in list(self.hub.faults.items())):
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, Repository({}))
            self.send_json({"url": f"{self.hub.address}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular"} for f in files]
            self.send_json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [
                o | {"actions": {"upload": {"href": f"{self.hub.content_address}/store/{o['oid']}", "header": {}}}}
                for o in objects
            ]
            self.send_json({"transfer": "basic", "objects": actions})
        elif found := re.fullmatch(r"/store/([0-9a-f]{64})", path):
            self.hub.stored[found[1]] = body
            self.send(200, b"", {})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.refuse(404, "EntryNotFound")

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[name].files
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        url = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self.send_json({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if any(path.endswith(end) and fault(self) for end, fault in list(self.hub.faults.items())):
            return
        self.honest()

    def honest(self) -> None:
        """The answer of a hub that does as it should."""
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._list(found[1], found[2], unquote(found[3]))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        elif found := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            contents = [c for repository in self.hub.repositories.values() for c in repository.files.values()]
            self.send_content(next(content for content in contents if sha256(content) == found[1]), {})
        else:
            self.refuse(404, "RepoNotFound")

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the range of it that is asked for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | headers
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None:
            return self.send(200, content, headers)
        start = int(asked[1])
        if start >= len(content):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(206, content[start:], headers | {"Content-Range": place})

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def cut(self, content: bytes, length: int, status: int = 200) -> None:
        """Announces all of ``content``, sends ``length`` bytes of it, and hangs up."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:length])
        self.wfile.flush()
        self.close_connection = True

    def _repository(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.refuse(404, "RepoNotFound")
            return None
        commit = repository.revisions.get(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return repository, commit

    def _list(self, name: str, kind: str, revision: str) -> None:
        found = self._repository(name, revision)
        if found is None:
            return
        siblings = [sibling(*item) for item in found[0].files.items()]
        if kind == "revision" and "blobs" not in self.path:
            siblings = [{"rfilename": each["rfilename"]} for each in siblings]
        if kind == "revision":
            self.send_json({"id": name, "modelId": name, "sha": found[1], "siblings": siblings})
            return
        tree = [
            {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": each["blobId"]}
            | ({"lfs": {"oid": each["lfs"]["sha256"], **each["lfs"]}} if "lfs" in each else {})
            for each in siblings
        ]
        self.send_json(tree)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        found = self._repository(repo, revision)
        if found is None:
            return
        repository, commit = found
        if name not in repository.files:
            self.refuse(404, "EntryNotFound")
            return
        content = repository.files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hash_of(name, content)}"'}
        if is_large(name, content):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": headers["ETag"]}
            self.send(302, b"", headers | linked | {"Location": f"{self.hub.content_address}/cdn/{sha256(content)}"})
        else:
            self.send_content(content, headers)
