"""Downloads that break, resume, meet each other, or come from a hub that lies."""

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from glmquant.errors import GlmQuantError, HubError
from glmquant.hub import listing, transfer
from glmquant.hub.locate import locate
from tests.support.hub import COMMIT, Fault, Handler, Hub, sha256, sibling
from tests.support.paths import CHATGLM2

ID = "THUDM/chatglm2-6b"
SHARD = "pytorch_model-00002-of-00002.bin"
LIST = f"/api/models/{ID}/revision/main"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.01)


@pytest.fixture
def shard() -> bytes:
    return (CHATGLM2 / SHARD).read_bytes()


def refuse(hub: Hub, *expected: str) -> HubError:
    """The one clear error that locating the model ends in; nothing half-used stays."""
    with pytest.raises(HubError) as caught:
        locate(ID)
    for text in expected:
        assert re.search(text, str(caught.value)), str(caught.value)
    cache = Path(constants.HF_HUB_CACHE)
    assert not list(cache.glob("*/refs/*"))
    assert not list(cache.glob(f"*/snapshots/*/{SHARD}"))
    return caught.value


def once(fault: Fault) -> Fault:
    """Misbehaves the first time."""
    rest = [fault]
    return lambda handler: bool(rest) and rest.pop()(handler)


def on_content(content: bytes, action: Callable[[Handler], object]) -> dict[str, Fault]:
    """Misbehaves when the content of a large file is asked for."""

    def fault(handler: Handler) -> bool:
        action(handler)
        return True

    return {f"/cdn/{sha256(content)}": fault}


def test_a_connection_that_breaks_off_is_taken_up(hub: Hub, cache: Path, shard: bytes) -> None:
    (end, fault), *_ = on_content(shard, lambda handler: handler.cut(shard, 700_000)).items()
    hub.faults[end] = once(fault)
    found = locate(ID)
    assert (found.path / SHARD).read_bytes() == shard
    assert "bytes=700000-" in [request.range for request in hub.requests]
    assert not list(cache.glob("*/blobs/*.incomplete"))


def test_a_connection_that_always_breaks_off_is_given_up(hub: Hub, cache: Path, shard: bytes) -> None:
    """padeoe/hf-mirror-site#4: cut at the same byte each time."""

    def cut(handler: Handler) -> None:
        if handler.headers["Range"]:
            handler.cut(shard[700_000:], 0, 206)
        else:
            handler.cut(shard, 700_000)

    hub.faults |= on_content(shard, cut)
    refuse(hub, "connection broke off", "of which 700 kB are here", "the same command again")
    hub.faults.clear()
    hub.requests.clear()
    assert (locate(ID).path / SHARD).read_bytes() == shard
    assert [request.range for request in hub.requests if request.range] == 2 * ["bytes=700000-"]


def test_a_server_without_ranges_starts_the_file_anew(hub: Hub, shard: bytes) -> None:
    state: list[int] = []

    def serve(handler: Handler) -> None:
        if not state:
            state.append(1)
            handler.cut(shard, 700_000)
        else:
            handler.send(200, shard, {})

    hub.faults |= on_content(shard, serve)
    assert (locate(ID).path / SHARD).read_bytes() == shard


def test_a_web_page_on_the_way_costs_nothing_that_came(hub: Hub, cache: Path, shard: bytes) -> None:
    (end, cut), *_ = on_content(shard, lambda handler: handler.cut(shard, 700_000)).items()
    (_, login), *_ = on_content(
        shard, lambda handler: handler.send(200, b"<html>", {"Content-Type": "text/html"})
    ).items()
    first = once(cut)
    hub.faults[end] = lambda handler: first(handler) or login(handler)
    refuse(hub, "a web page comes in place of")
    hub.faults.clear()
    hub.requests.clear()
    locate(ID)
    assert "bytes=700000-" in [request.range for request in hub.requests]


def test_what_is_longer_than_the_file_is_no_beginning_of_it(hub: Hub, cache: Path, shard: bytes) -> None:
    blobs = cache / f"models--{ID.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(shard)}.incomplete").write_bytes(shard + b"x")
    assert (locate(ID).path / SHARD).read_bytes() == shard


def _locate_in_a_process(address: str, cache: Path) -> None:
    constants.ENDPOINT, constants.HF_HUB_CACHE = address, str(cache)
    locate(ID)


def test_a_killed_download_goes_on_where_it_was(hub: Hub, cache: Path, shard: bytes) -> None:
    def stall(handler: Handler) -> None:
        handler.cut(shard, 600_000)
        time.sleep(30)

    hub.faults |= on_content(shard, stall)
    process = multiprocessing.get_context("spawn").Process(target=_locate_in_a_process, args=(hub.address, cache))
    process.start()
    deadline = time.monotonic() + 60
    while not [path for path in cache.glob(f"*/blobs/{sha256(shard)}.incomplete") if path.stat().st_size >= 500_000]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    hub.faults.clear()
    hub.requests.clear()
    told: list[int] = []
    found = locate(ID, lambda _, done, total: told.append(done))
    (resumed,) = {request.range for request in hub.requests if request.range}
    assert int(resumed.removeprefix("bytes=").removesuffix("-")) >= 500_000
    assert hub.fetched() == [SHARD]
    assert told[0] > 500_000
    assert (found.path / SHARD).read_bytes() == shard


def test_two_at_once_fetch_each_file_once(hub: Hub, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_locate_in_a_process, args=(hub.address, cache)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(hub.fetched()) == len(set(hub.fetched()))


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    locate(ID)
    tokens = {(request.path.startswith("/cdn/"), request.token) for request in hub.requests}
    assert tokens == {(False, "Bearer hf_secret"), (True, None)}


def test_a_token_that_is_none_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_模型")
    refuse(hub, "characters that no token has", "where: HF_TOKEN")


def test_a_gated_repository_opens_with_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def gate(handler: Handler) -> bool:
        if handler.headers["Authorization"]:
            return False
        handler.refuse(401, "GatedRepo", "Access to model is restricted")
        return True

    hub.faults[""] = gate
    refuse(hub, "is gated", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.faults[""] = lambda handler: not handler.path.startswith("/cdn/") and gate(handler)
    locate(ID)


def refusal(status: int, code: str = "", message: str = "") -> Fault:
    def fault(handler: Handler) -> bool:
        handler.refuse(status, code, message)
        return True

    return fault


REFUSALS: dict[str, tuple[Fault, str]] = {
    "401 of a hub that does not say more": (refusal(401), "no repository THUDM/chatglm2-6b, or does not show it"),
    "401 as huggingface.co says it": (refusal(401, "RepoNotFound", "Repository not found"), "or does not show it"),
    "404": (refusal(404, "RepoNotFound"), r"status 404\)[\s\S]*hf auth login"),
    "gated, with a token": (refusal(403, "GatedRepo"), r"gated[\s\S]*accept them at http"),
    "a token that has expired": (
        refusal(401, "", "Invalid credentials in Authorization header"),
        r"does not accept the token[\s\S]*unset HF_TOKEN",
    ),
    "no such revision": (refusal(404, "RevisionNotFound"), r"no revision 'main'[\s\S]*/commits lists them"),
    "too often": (refusal(429), "429: it is asked too often"),
    "maintenance": (refusal(503), "503: it is overloaded"),
    "no status of ours": (refusal(418), "answers 418"),
}


@pytest.mark.parametrize(("fault", "said"), REFUSALS.values(), ids=REFUSALS)
def test_each_refusal_is_told_by_its_cause(hub: Hub, fault: Fault, said: str) -> None:
    hub.faults[LIST] = fault
    refuse(hub, said)


def test_a_revision_that_is_not_there_can_be_left_out(hub: Hub) -> None:
    with pytest.raises(HubError, match=r"no revision 'v9'[\s\S]*without @REVISION"):
        locate(f"{ID}@v9")
    assert locate(ID).path.name == COMMIT


@pytest.mark.parametrize("query", ["?blobs=true", ""], ids=["with its question", "without"])
def test_a_renamed_repository_is_found(hub: Hub, query: str) -> None:
    """THUDM became zai-org."""
    hub.repositories["zai-org/chatglm2-6b"] = hub.repositories.pop(ID)

    def moved(handler: Handler) -> bool:
        path, _, asked = handler.path.partition("?")
        if ID not in path or (asked and "blobs" not in asked):
            return False
        target = path.replace("THUDM", "zai-org") + (query if asked else "")
        handler.send(307, b"", {"Location": target})
        return True

    hub.faults[""] = moved
    found = locate(ID)
    assert found.origin is not None
    assert (found.origin.name, found.origin.revision) == (ID, COMMIT)


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """debpalash/VoiceStudio#874: a mirror that is down is named."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refuse(hub, "not in the cache, and the hub cannot be reached", "unset HF_ENDPOINT, which is http://127.0.0.1:9")


def answer(change: Callable[[dict[str, Any]], object]) -> Fault:
    """The honest list, changed."""

    def fault(handler: Handler) -> bool:
        repository = handler.hub.repositories[ID]
        value = {"sha": COMMIT, "siblings": [sibling(*item) for item in repository.files.items()]}
        changed = change(value)
        handler.send_json(value if changed is None else changed)
        return True

    return fault


def edit(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Changes what the list says of one file; ``lfs`` is merged."""

    def change(value: dict[str, Any]) -> None:
        entry = next(each for each in value["siblings"] if each["rfilename"] == name)
        entry |= {key: entry.get(key, {}) | new if isinstance(new, dict) else new for key, new in changes.items()}

    return change


def add(**entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["siblings"].append(entry)


def raw(body: bytes, kind: str = "application/json") -> Fault:
    def fault(handler: Handler) -> bool:
        handler.send(200, body, {"Content-Type": kind})
        return True

    return fault


def redirect(target: str) -> Fault:
    def fault(handler: Handler) -> bool:
        handler.send(302, b"", {"Location": target})
        return True

    return fault


LIES: dict[str, tuple[Fault, str]] = {
    "names with ..": (answer(add(rfilename="../../.bashrc", size=1, blobId="0" * 40)), "outside the repository"),
    "an absolute name": (answer(add(rfilename="/etc/cron.d/x", size=1, blobId="0" * 40)), "outside the repository"),
    "a name of Windows": (answer(add(rfilename="..\\x", size=1, blobId="0" * 40)), r"names a file '\.\."),
    "a name that is none": (answer(add(rfilename=7)), "names a file 7"),
    "a file that is none": (answer(lambda value: value["siblings"].append("config.json")), "names a file None"),
    "a huge name": (answer(add(rfilename="x" * 5000)), "names a file"),
    "an absurd size": (
        answer(edit(SHARD, lfs={"size": 10**18})),
        r"e\+09 GB of THUDM/chatglm2-6b are to be downloaded",
    ),
    "a size below nothing": (answer(edit(SHARD, lfs={"size": -1})), f"no size for {SHARD}, but -1"),
    "a size that is text": (answer(edit(SHARD, lfs={"size": "9"})), "no size"),
    "a size that is true": (answer(edit("config.json", size=True)), "no size for config.json"),
    "a huge config.json": (answer(edit("config.json", size=10**9)), "config.json is of 1 GB, too large"),
    "a huge tokenizer": (answer(edit("tokenizer.model", lfs={"size": 10**9})), "tokenizer.model is of 1 GB"),
    "a hash that is a path": (answer(edit("config.json", blobId="../../x")), "no hash for config.json"),
    "no hash": (answer(edit("config.json", blobId=None)), "no hash for config.json, but None"),
    "thousands of files": (
        answer(lambda value: value["siblings"].extend({"rfilename": f"{n}.txt"} for n in range(10_001))),
        "more than 10000",
    ),
    "no commit": (answer(lambda value: value.pop("sha") and None), "sha is None"),
    "a commit that is a path": (answer(lambda value: value.update(sha="../../../x")), "no commit"),
    "no files": (answer(lambda value: value.update(siblings=None)), "lists no files"),
    "a list": (answer(lambda value: [value]), "the JSON is a list"),
    "a web page, tobi/qmd#548": (raw(b"<!DOCTYPE html><title>Login</title>", "text/html"), "a proxy or a login"),
    "no JSON": (raw(b"{"), "not valid JSON"),
    "JSON without end": (raw(b"[" * 200_000), "not valid JSON"),
    "an endless answer": (raw(b" " * (17 << 20)), "larger than 16.8 MB"),
    "nothing": (raw(b""), "not valid JSON"),
    "a redirect to a file": (redirect("file:///etc/passwd"), "leads nowhere"),
    "a redirect to itself": (redirect(LIST), "leads nowhere"),
    "a redirect to no address": (redirect("http://[::1"), "Invalid URL in location header"),
}


@pytest.mark.parametrize(("fault", "said"), LIES.values(), ids=LIES)
def test_a_list_that_lies_is_refused_before_anything_is_fetched(hub: Hub, fault: Fault, said: str) -> None:
    hub.faults[LIST] = fault
    refuse(hub, said)
    assert hub.fetched() == []


def endless(handler: Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    except OSError:
        handler.close_connection = True


CONTENTS: dict[str, tuple[Callable[[Handler, bytes], object], str]] = {
    "other bytes": (lambda h, c: h.send(200, bytes(len(c)), {}), "does not have the hash"),
    "fewer bytes, hf-mirror-site#66": (lambda h, c: h.send(200, c[:16], {}), "comes in 16 bytes, where the hub said"),
    "more bytes": (lambda h, c: h.send(200, c + b"x", {}), "where the hub said"),
    "more bytes than it says itself": (endless, "more bytes come of"),
    "a web page, tobi/qmd#548": (
        lambda h, c: h.send(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"}),
        "a web page comes in place of",
    ),
    "packed": (lambda h, c: h.send(200, c, {"Content-Encoding": "gzip"}), "comes in"),
    "a redirect to a file": (lambda h, c: h.send(302, b"", {"Location": "file:///etc/passwd"}), "leads nowhere"),
    "not there": (lambda h, c: h.refuse(404, "EntryNotFound"), f"{SHARD} is not in THUDM/chatglm2-6b"),
    "forbidden": (lambda h, c: h.refuse(403, ""), "does not show it"),
    "maintenance": (lambda h, c: h.refuse(503, ""), f"{SHARD}: the hub answers 503"),
}


@pytest.mark.parametrize(("action", "said"), CONTENTS.values(), ids=CONTENTS)
def test_content_that_is_not_the_file_is_refused(
    hub: Hub, cache: Path, shard: bytes, action: Callable[[Handler, bytes], object], said: str
) -> None:
    hub.faults |= on_content(shard, lambda handler: action(handler, shard))
    refuse(hub, said)
    assert sum(path.stat().st_size for path in cache.glob("*/blobs/*.incomplete")) == 0
    hub.faults.clear()
    assert (locate(ID).path / SHARD).read_bytes() == shard


def test_a_file_beside_the_large_ones_is_checked_too(hub: Hub) -> None:
    hub.faults["/config.json"] = raw(b"x" * len(hub.repositories[ID].files["config.json"]))
    refuse(hub, "what came of config.json does not have the hash")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "no config.json to read: it is an adapter"),
        ({"chatglm2-6b.Q4_0.gguf": b"x"}, "it holds GGUF files, for llama.cpp"),
        ({"config.json": b"{}", "model.onnx": b"x"}, "no weights to read: it holds ONNX files"),
        ({"config.json": b"{}", "flax_model.msgpack": b"x"}, "no weights to read"),
    ],
    ids=["hiyouga/LlamaFactory#5256", "padeoe/hf-mirror-site#66", "onnx", "flax"],
)
def test_a_repository_without_a_checkpoint(hub: Hub, files: dict[str, bytes], said: str) -> None:
    hub.repositories[ID].files = files
    refuse(hub, said)
    assert hub.fetched() == []


def test_safetensors_come_before_bin(hub: Hub) -> None:
    files = hub.repositories[ID].files
    files |= {"model.safetensors": b"x", "consolidated.safetensors": b"y", "tf_model.h5": b"z"}
    locate(ID)
    assert [name for name in hub.fetched() if not name.endswith((".json", ".model"))] == ["model.safetensors"]


def test_a_full_disk_keeps_what_came(hub: Hub, cache: Path, shard: bytes) -> None:
    """The disk is /dev/full for one file."""
    blobs = cache / f"models--{ID.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    link = blobs / f"{sha256(shard)}.incomplete"
    link.symlink_to("/dev/full")
    refuse(hub, "the disk is full", "HF_HOME", "goes on from what is there")
    link.unlink()
    hub.requests.clear()
    locate(ID)
    assert hub.fetched() == [SHARD]


def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / f"models--{ID.replace('/', '--')}").write_text("in the way")
    refuse(hub, "cache cannot be written: (Not a directory|File exists)", "set HF_HOME")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    locate(ID)


def test_without_symbolic_links(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    hub.repositories[ID].files["special_tokens_map.json"] = hub.repositories[ID].files["tokenizer_config.json"]
    found = locate(ID)
    assert {path.name for path in found.path.iterdir()} >= {SHARD, "special_tokens_map.json"}
    assert not any(path.is_symlink() for path in found.path.iterdir())


def test_the_log_says_how_to_remove_it(hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "glmquant.hub")
    found = locate(ID)
    command = re.search(r"`(hf cache rm [^`]+)`", caplog.text)
    assert command is not None
    program, *arguments = command[1].split()
    hf = [str(Path(sys.executable).with_name(program)), *arguments, "--yes"]
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(hf, env=environment, check=True, capture_output=True)
    assert not found.path.exists()


def test_an_answer_is_bounded_in_memory(hub: Hub) -> None:
    """No more of an endless list is read than a list may be."""

    def endless_list(handler: Handler) -> bool:
        endless(handler, b" " * (1 << 20))
        return True

    hub.faults[LIST] = endless_list
    refuse(hub, "larger than")


def test_the_list_is_read_as_json_alone() -> None:
    with pytest.raises(GlmQuantError, match="given twice"):
        listing.read_listing(b'{"sha": "a", "sha": "b"}', listing.RepoId(ID), "here")
    assert json.loads(b"{}") == {}


def test_a_signature_in_a_redirect_is_not_shown(hub: Hub, shard: bytes) -> None:
    def signed(handler: Handler) -> bool:
        handler.send(302, b"", {"Location": f"{handler.hub.content_address}/cdn/x?Signature=secret"})
        return True

    hub.faults |= {f"/resolve/{COMMIT}/{SHARD}": signed, "/cdn/x": raw(b"<html>", "text/html")}
    assert "secret" not in str(refuse(hub, "where: http://localhost:.*/cdn/x"))
