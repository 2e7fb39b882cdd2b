"""A bundle published on a hub that speaks what huggingface_hub asks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, close_session, constants

import glmquant as gq
from glmquant.errors import CheckpointError, HubError
from tests.hints.follow import follows, refused
from tests.support.hub import COMMIT, Handler, Hub, running
from tests.support.paths import CHATGLM2
from tests.test_cli import glmquant

REPO = "me/tiny-onnx"
FEW = {"check.text": ["glmquant:held-out-en.txt"], "check.num_tokens": 128, "check.seq_len": 64}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    gq.run(CHATGLM2, gq.load_recipe("int8-rtn", FEW), out=out)
    return out / "onnx"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose server is another
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        yield hub


def test_by_default_nothing_is_uploaded(bundle: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("push", bundle, REPO) == 0
    told = capsys.readouterr().out
    assert f"to {hub.address}/{REPO}" in told
    assert "README.md" in told
    assert "license of the base model, chatglm2-tiny" in told
    assert "nothing was uploaded: the same with --yes does it" in told
    assert hub.requests == []


def test_what_is_uploaded_is_the_bundle(bundle: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("push", bundle, REPO, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commit"] == f"{hub.address}/{REPO}/commit/{COMMIT}"
    published = hub.repositories[REPO].files
    assert published == {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert told["files"] == {name: len(content) for name, content in sorted(published.items())}
    writing = [request for request in hub.requests if request.path.endswith(("/create", "/commit/main"))]
    assert [request.token for request in writing] == ["Bearer hf_mine"] * 2
    card = ModelCard(published["README.md"].decode())
    assert card.data.pipeline_tag == "text-generation"


def test_a_bundle_that_was_changed_is_not_published(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_text("Mine.")
    with pytest.raises(CheckpointError, match=r"README\.md"):
        gq.push(tmp_path, REPO, upload=True)
    assert hub.requests == []


def refusing(status: int) -> Callable[[Handler], bool]:
    def refuse(handler: Handler) -> bool:
        handler.refuse(status, "", "no")
        return True

    return refuse


@follows("run `hf auth login`, or set HF_TOKEN, with a token that may write there")
def test_a_token_that_may_write_there_publishes(bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults["/api/repos/create"] = lambda handler: (
        "hf_mine" in handler.headers["Authorization"] and refusing(403)(handler)
    )
    refused(lambda: gq.push(bundle, REPO, upload=True), "hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_may_write")
    assert gq.push(bundle, REPO, upload=True).commit


@follows("run the same command again, a little later", "push:upload")
def test_a_hub_that_is_too_busy_takes_it_later(bundle: Path, hub: Hub) -> None:
    hub.faults["/api/repos/create"] = refusing(400)
    refused(lambda: gq.push(bundle, REPO, upload=True))
    hub.faults.clear()
    assert gq.push(bundle, REPO, upload=True).commit


@follows("check the network, and try again")
def test_a_hub_that_is_not_reached_takes_it_later(bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
        refused(lambda: gq.push(bundle, REPO, upload=True))
    assert gq.push(bundle, REPO, upload=True).commit


@follows("unset HF_HUB_OFFLINE", "push:upload")
def test_online_it_is_published(bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        close_session()
        refused(lambda: gq.push(bundle, REPO, upload=True))
    close_session()
    assert gq.push(bundle, REPO, upload=True).commit


@pytest.mark.parametrize("repo", ["tiny", "me/tiny@main", "a/b/c", "../x"])
def test_what_is_no_id_is_refused(bundle: Path, hub: Hub, repo: str) -> None:
    with pytest.raises(HubError, match="no id of a repository"):
        gq.push(bundle, repo)
