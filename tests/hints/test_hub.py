"""Hints on the hub: what goes wrong on the way, and the same command once the hint is followed."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, get_token

from glmquant.hub import download, http, transfer
from glmquant.hub.locate import locate
from tests.hints.commands import commands, hub_command
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.hub.test_download import ID, LIST, SHARD, on_content, raw, redirect, refusal
from tests.support.hub import Fault, Handler, Hub, Repository
from tests.support.paths import CHATGLM2, contents

DEAD = "http://127.0.0.1:9"
MIRROR = "set HF_ENDPOINT to a mirror"
UNSET = "unset HF_ENDPOINT, which is {}, to ask https://huggingface.co"
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: Patch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.01)


def found() -> bool:
    return (locate(ID).path / SHARD).read_bytes() == (CHATGLM2 / SHARD).read_bytes()


def unless_token(fault: Fault) -> Fault:
    return lambda handler: not handler.headers["Authorization"] and fault(handler)


def with_token(fault: Fault) -> Fault:
    return lambda handler: bool(handler.headers["Authorization"]) and fault(handler)


Follow = Callable[[Hub, Patch], object]


def later(hub: Hub, patch: Patch) -> None:
    hub.faults.clear()


def set_token(hub: Hub, patch: Patch) -> None:
    patch.setenv("HF_TOKEN", "hf_secret")


FAULTS: dict[str, tuple[Hint, Fault, Follow]] = {
    "gated, HF_TOKEN": (
        named("accept them at {}, then run `hf auth login`, or set HF_TOKEN"),
        unless_token(refusal(401, "GatedRepo")), set_token,
    ),
    "private, HF_TOKEN": (
        named("look for it at {}/models; for a private one, run `hf auth login`, or set HF_TOKEN"),
        unless_token(refusal(401)), set_token,
    ),
    "too often": (named("run the same command again, a little later", "require_success"), refusal(429), later),
    "a login page": (
        named("open {} in a browser; HF_ENDPOINT names another hub"), raw(b"<!DOCTYPE html>", "text/html"), later,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS)
def test_the_model_comes_once_the_hint_is_followed(
    hub: Hub, monkeypatch: Patch, case: tuple[Hint, Fault, Follow]
) -> None:
    hint, fault, follow = case
    hub.faults[LIST] = fault
    with met_errors() as met:
        refused(lambda: locate(ID))
    assert any(each.is_of(hint) for each in met), met
    follow(hub, monkeypatch)
    assert found()


@follows("run `hf auth login` again", "_headers")
@follows("run `hf auth login` again, or unset HF_TOKEN")
def test_a_token_that_is_good_or_none_is_taken(hub: Hub, monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_模型")
    refused(lambda: locate(ID), "run `hf auth login` again")
    hub.faults[LIST] = with_token(refusal(401, "", "Invalid credentials in Authorization header"))
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    refused(lambda: locate(ID), "or unset HF_TOKEN")
    (tmp_path / "token").unlink()
    monkeypatch.delenv("HF_TOKEN")
    assert get_token() is None
    assert found()


@follows("give its id: {}")
def test_a_page_of_the_hub_leads_to_its_id(hub: Hub) -> None:
    error = refused(lambda: locate(f"https://huggingface.co/{ID}/tree/main"))
    assert str(error.hint).removeprefix("give its id: ") == ID
    assert found()


@follows("unset HF_HUB_OFFLINE", "hub.http:get")
def test_online_the_model_is_fetched(hub: Hub, monkeypatch: Patch) -> None:
    from huggingface_hub import close_session

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        close_session()
        refused(lambda: locate(ID))
    close_session()
    assert found()


@follows("{}/commits lists them; without @REVISION, the newest is taken")
def test_without_a_revision_the_newest_is_taken(hub: Hub) -> None:
    refused(lambda: locate(f"{ID}@v9"))
    assert found()


@follows(MIRROR, "http:get")
@follows(MIRROR, "require_success")
@follows(UNSET, "http:get")
@follows(UNSET, "require_success")
@follows("check the network (HTTPS_PROXY is honored), or {}")
def test_another_endpoint_has_the_model(hub: Hub, monkeypatch: Patch, cache: Path) -> None:
    monkeypatch.setattr(http, "PUBLIC_HUB", hub.address)
    for fault in (redirect("file:///etc/passwd"), refusal(418)):
        hub.faults[LIST] = fault
        refused(lambda: locate(ID), MIRROR)
        hub.faults.clear()
        assert found()  # as a mirror answers
        shutil.rmtree(cache)
    monkeypatch.setattr(http, "PUBLIC_HUB", "https://huggingface.co")
    for fault in (redirect("file:///etc/passwd"), refusal(418)):
        hub.faults[LIST] = fault
        refused(lambda: locate(ID), f"unset HF_ENDPOINT, which is {hub.address}")
        hub.faults.clear()
        assert found()  # as huggingface.co answers
        shutil.rmtree(cache)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", DEAD)
        refused(lambda: locate(ID), f"or unset HF_ENDPOINT, which is {DEAD}")
    assert found()


@follows("run the same command again when the network is back; it goes on from there")
def test_a_download_goes_on_when_the_network_is_back(hub: Hub) -> None:
    shard = (CHATGLM2 / SHARD).read_bytes()

    def cut(handler: Handler) -> None:
        start = 700_000 if handler.headers["Range"] else 0
        handler.cut(shard[start:], 700_000 - start, 206 if start else 200)

    hub.faults |= on_content(shard, cut)
    refused(lambda: locate(ID))
    hub.faults.clear()
    hub.requests.clear()
    assert found()
    assert "bytes=700000-" in [request.range for request in hub.requests]


@follows(
    "run the same command again; if it ends the same way, a proxy or mirror changes files: use another network or HF_ENDPOINT"
)
def test_another_network_brings_the_file(hub: Hub) -> None:
    shard = (CHATGLM2 / SHARD).read_bytes()
    hub.faults |= on_content(shard, lambda handler: handler.send(200, bytes(len(shard)), {}))
    refused(lambda: locate(ID))
    refused(lambda: locate(ID))
    hub.faults.clear()
    assert found()


@follows("set HF_HOME to a directory that you may write")
@follows("free some space, or set HF_HOME to a directory on another disk")
@follows("{}; the same command goes on from what is there")
def test_a_cache_elsewhere_is_written(hub: Hub, monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
        refused(lambda: locate(ID), "that you may write")
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
        refused(lambda: locate(ID), "free some space, or set HF_HOME")
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(download, "sync_directory", lambda path: (_ for _ in ()).throw(full), raising=False)
        patch.setattr(transfer, "sync_file", lambda path: (_ for _ in ()).throw(full))
        refused(lambda: locate(ID), "; the same command goes on")
    assert found()


@follows("give its base model, and as `adapter` the directory that `hf download {}` prints")
@follows("look for the original model, which {}/{} may name")
def test_a_repository_of_something_else_leads_to_a_checkpoint(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from glmquant.store.adapter import open_adapter
    from tests.store.test_adapter import BOTH
    from tests.support.adapters import write_adapter

    hub.repositories["me/lora"] = Repository.of(write_adapter(tmp_path / "a", BOTH))
    (command,) = commands(refused(lambda: locate("me/lora")).hint)
    hub_command(f"{command} --cache-dir {tmp_path / 'cache'}")
    assert open_adapter(capsys.readouterr().out.strip().rpartition("path: ")[2].split("\n")[-1]).additions
    hub.repositories["me/gguf"] = Repository({"model.Q4_0.gguf": b"x", "README.md": b"of THUDM/chatglm2-6b"})
    refused(lambda: locate("me/gguf"), "/me/gguf may name")
    assert found()


@follows("{}For the hub's repository, give the directory that `hf download {}` prints")
@follows("did you mean {}?", "no_directory")
@follows("for the hub's repository, give the id as text: {}")
@follows("{} is there; nothing in it has such a name")
def test_what_is_said_to_be_there_is_found(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(lambda: locate(Path(ID)))
    assert locate(str(error.hint).rpartition("text: ")[2].strip("'")).path.is_dir()
    shutil.copytree(CHATGLM2, "models/chatglm3-6b")
    for given in ("models/ChatGLM3-6B", "./models/chatglm3-6", "modles/chatglm3-6b/x"):
        hint = str(refused(lambda given=given: locate(given)).hint)
        assert locate(hint.partition("did you mean ")[2].partition("?")[0]).path.is_dir()
    there = str(refused(lambda: locate("models/foo/bar")).hint).partition(" is there")[0]
    assert locate(Path(there) / "chatglm3-6b").path.is_dir()
    Path("THUDM").mkdir()
    (command,) = commands(refused(lambda: locate(ID)).hint)
    hub_command(f"{command} --cache-dir {tmp_path / 'other'}")
    printed = capsys.readouterr().out.strip().rpartition("path: ")[2].split("\n")[-1]
    assert contents(locate(printed).path).keys() >= contents(CHATGLM2).keys() - {
        "expected.safetensors",
        "expected_tokens.json",
    }
