"""Where a name leads: a directory, a cache, the hub; and what is said where it leads nowhere."""

import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir, snapshot_download, try_to_load_from_cache

import glmquant as gq
from glmquant.core.units import size
from glmquant.core.untrusted import MAX_CONFIG_BYTES
from glmquant.errors import CheckpointError, GlmQuantError, HubError
from glmquant.hub.locate import locate
from glmquant.store.base_card import BaseCard, read_base_card
from glmquant.store.checkpoint import open_checkpoint
from tests.hub.conftest import USELESS
from tests.support.hub import COMMIT, Hub, Repository, hash_of
from tests.support.paths import CHATGLM2, GOLDEN, contents

ID = "THUDM/chatglm2-6b"


def published() -> dict[str, bytes]:
    return Repository.of(CHATGLM2).files


def test_a_repository_is_downloaded_once(hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "glmquant.hub")
    told: list[tuple[str, int, int]] = []
    found = locate(ID, lambda *step: told.append(step))
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == published()
    assert found.path == cache / "models--THUDM--chatglm2-6b" / "snapshots" / COMMIT
    total = sum(map(len, published().values()))
    assert told[-1] == (f"download {ID} (bytes)", total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert f"downloading {size(total)} of {ID}" in caplog.text
    assert str(cache) in caplog.text
    asked = len(hub.requests)
    again = locate(ID)
    assert (again, len(hub.requests)) == (found, asked)


def test_only_what_a_checkpoint_needs_is_fetched(hub: Hub) -> None:
    hub.repositories[ID].files |= {"model.safetensors.index.json.bak": b"", "LICENSE": b"terms", "MODEL_LICENSE": b"t"}
    locate(ID)
    assert set(hub.fetched()) == {*published(), "LICENSE", "MODEL_LICENSE"}
    assert not set(hub.fetched()) & set(USELESS)


def test_a_model_card_comes_along(hub: Hub) -> None:
    hub.repositories[ID].files["README.md"] = b"---\nlicense: mit\nlanguage: zh\n---\n"
    assert read_base_card(locate(ID).path) == BaseCard(license="mit", languages=("zh",))


def test_a_model_card_that_is_too_large_is_left_out(hub: Hub) -> None:
    hub.repositories[ID].files["README.md"] = b"-" * (MAX_CONFIG_BYTES + 1)
    assert not (locate(ID).path / "README.md").exists()
    assert set(hub.fetched()) == set(published())


def test_the_origin_names_commit_and_hashes(hub: Hub) -> None:
    origin = locate(ID).origin
    assert origin is not None
    assert (origin.name, origin.revision) == (ID, COMMIT)
    assert origin.files == {name: hash_of(name, content) for name, content in published().items()}


def test_the_checkpoint_is_read_through_its_links(hub: Hub) -> None:
    found = locate(ID)
    checkpoint = open_checkpoint(found.path, origin=found.origin)
    original = open_checkpoint(CHATGLM2)
    assert checkpoint.fingerprint == original.fingerprint
    assert checkpoint.block(0).linears().keys() == original.block(0).linears().keys()
    assert checkpoint.tokenizer.sha256 == original.tokenizer.sha256
    assert (checkpoint.name, original.name) == (ID, "chatglm2-tiny")


def test_huggingface_hub_reads_what_was_written(hub: Hub, cache: Path) -> None:
    found = locate(ID)
    asked = len(hub.requests)
    assert Path(snapshot_download(ID, local_files_only=True, cache_dir=cache)) == found.path
    assert try_to_load_from_cache(ID, "config.json", cache_dir=cache) == str(found.path / "config.json")
    (repository,) = scan_cache_dir(cache).repos
    (revision,) = repository.revisions
    assert (repository.repo_id, revision.commit_hash, revision.refs) == (ID, COMMIT, frozenset({"main"}))
    assert {file.file_name for file in revision.files} == set(published())
    assert len(hub.requests) == asked


def test_what_huggingface_hub_wrote_is_read(hub: Hub, cache: Path) -> None:
    written = snapshot_download(ID, cache_dir=cache, endpoint=hub.address)
    asked = len(hub.requests)
    found = locate(ID)
    assert (str(found.path), len(hub.requests)) == (written, asked)
    assert found.origin is not None
    assert found.origin.files["tokenizer.model"] == hash_of("tokenizer.model", published()["tokenizer.model"])
    open_checkpoint(found.path).embedding()


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, cache: Path) -> None:
    other = "b" * 40
    repository = hub.repositories[ID]
    repository.revisions |= {"v1.0": other, other: other, "refs/pr/4": other}
    repository.files["generation_config.json"] = b"{}"
    assert locate(ID).path.name == COMMIT
    for revision in ("v1.0", "refs/pr/4", other):
        found = locate(f"{ID}@{revision}")
        assert found.path.name == other
        assert found.origin is not None
        assert found.origin.revision == other
    assert (cache / "models--THUDM--chatglm2-6b" / "refs" / "v1.0").read_text() == other
    assert len(hub.fetched()) == len(set(hub.fetched()))  # blobs are shared between revisions


def test_a_directory_of_that_name_comes_first(hub: Hub) -> None:
    shutil.copytree(CHATGLM2, ID)
    assert locate(ID) == locate(Path(ID))
    assert locate(ID).origin is None
    assert hub.requests == []


def test_a_path_is_never_an_id(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="give the id as text: 'THUDM/chatglm2-6b'"):
        locate(Path(ID))
    assert hub.requests == []
    locate("THUDM/chatglm2-6b")


NEAR: dict[str, tuple[str, str]] = {
    "./chatglm2-6": ("./chatglm2-6", r"did you mean \./chatglm2-6b\?"),
    "models/foo/bar": ("models/foo/bar", "is there; nothing in it has such a name"),
    "models/ChatGLM3-6B": ("models/ChatGLM3-6B", r"did you mean \./models/chatglm3-6b\?"),
    "models/chatglm3": ("models/chatglm3", "hf download models/chatglm3"),
    "models/chatglm3@v1": ("models/chatglm3@v1", "hf download models/chatglm3 --revision v1"),
    "chatglm26b": ("chatglm26b", r"did you mean \./chatglm2-6b\?"),
    # public reports, whose tools sent the path to the hub or called it an invalid id
    "X-jun-0130/LLM-Pretrain-FineTune#4": ("./Model_TH/Bloom_6B4_zh/", "does not exist"),
    "hiyouga/LlamaFactory#7684": ("/mnt/c/models/Qwen1.5-0.5B", "does not exist"),
    "huggingface/controlnet_aux#3": ("./diffusers/ControlNet", "does not exist"),
    "zai-org/ChatGLM2-6B#115": ("/Volumes/MyPassport/迅雷下载/pytorch_model.bin", "does not exist"),
}


@pytest.mark.parametrize(("given", "said"), NEAR.values(), ids=NEAR)
def test_a_path_that_is_not_there_asks_nobody(hub: Hub, given: str, said: str) -> None:
    Path("chatglm2-6b").mkdir()
    Path("models/chatglm3-6b").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=said):
        locate(given)
    assert hub.requests == []


def test_the_suggested_directory_works(hub: Hub) -> None:
    shutil.copytree(CHATGLM2, "models/chatglm2-6b")
    with pytest.raises(CheckpointError) as caught:
        locate("models/chatglm2-6")
    assert caught.value.hint is not None
    near = caught.value.hint.removeprefix("did you mean ").partition("?")[0]
    assert locate(near).path == Path("models/chatglm2-6b")


@pytest.mark.parametrize("given", ["x" * 5000, "x" * 5000 + "/y", "a\0b", "x/" * 3000 + "x"])
def test_names_that_no_system_takes(hub: Hub, given: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        locate(given)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("cached", "missing"),
    [
        (("tokenizer.model", "tokenizer_config.json", "config.json"), "the weights"),
        (("config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"), "pytorch_model-00002-of"),
        (("tokenizer.model", "pytorch_model-00001-of-00002.bin"), "config.json"),
    ],
    ids=["huggingface/optimum-intel#1855", "huggingface/huggingface_hub#1959", "huggingface/huggingface_hub#4487"],
)
def test_an_incomplete_snapshot_is_completed(
    hub: Hub, cache: Path, cached: tuple[str, ...], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(ID, cache_dir=cache, endpoint=hub.address, allow_patterns=list(cached))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=rf"in the cache without [\s\S]*{missing}[\s\S]*unset HF_HUB_OFFLINE"):
        locate(ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.requests.clear()
    found = locate(ID)
    assert set(hub.fetched()) == set(published()) - set(cached)
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == published()


def test_a_snapshot_is_completed_from_its_own_commit(hub: Hub, cache: Path) -> None:
    """The branch has moved on since; shards of two commits would be no model."""
    snapshot_download(ID, cache_dir=cache, endpoint=hub.address, allow_patterns=["config.json"])
    hub.repositories[ID].revisions["main"] = "c" * 40
    assert locate(ID).path.name == COMMIT


def test_offline_without_a_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=f"{ID} is not in the cache, and HF_HUB_OFFLINE is set"):
        locate(ID)
    assert hub.requests == []


PLACES = ("hub/models/THUDM/chatglm2-6b", "hub/THUDM/chatglm2-6b", "models/THUDM/chatglm2-6b", "THUDM/chatglm2-6b")


@pytest.mark.parametrize(
    "place", PLACES, ids=["default", "before modelscope#1201", "modelscope#1201", "modelscope#845"]
)
def test_modelscopes_cache_is_used(
    hub: Hub, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "glmquant.hub")
    root = tmp_path / "home" / ".cache" / "modelscope" if place.startswith("hub") else tmp_path / "elsewhere"
    if not place.startswith("hub"):
        monkeypatch.setenv("MODELSCOPE_CACHE", str(root))
    shutil.copytree(CHATGLM2, root / place)
    found = locate(ID)
    assert found.path == root / place
    assert found.origin is not None
    assert (found.origin.name, found.origin.revision) == (ID, None)
    assert f"{ID} is in ModelScope's cache" in caplog.text
    assert hub.requests == []


def test_modelscope_writes_dots_in_its_own_way(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(CHATGLM2, tmp_path / "home/.cache/modelscope/hub/models/ZhipuAI/GLM-4___5-Air")
    found = locate("ZhipuAI/GLM-4.5-Air")
    assert found.origin is not None
    assert (found.path.name, found.origin.name) == ("GLM-4___5-Air", "ZhipuAI/GLM-4.5-Air")


def test_an_incomplete_modelscope_directory_is_passed_over(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "home/.cache/modelscope/hub" / ID
    shutil.copytree(CHATGLM2, broken)
    (broken / "pytorch_model-00002-of-00002.bin").unlink()
    assert locate(ID).path.name == COMMIT
    assert "lacks pytorch_model-00002-of-00002.bin" in caplog.text


def test_a_user_without_a_home_has_caches_all_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a user id that no system file knows."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert locate(ID).path.name == COMMIT


def test_a_revision_is_not_taken_from_modelscope(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(CHATGLM2, tmp_path / "home/.cache/modelscope/hub" / ID)
    assert locate(f"{ID}@main").path.name == COMMIT


def test_hub_cache_of_the_reports(tmp_path: Path) -> None:
    """reports/hub-cache: the snapshot's own path; the name of the repository is known from it."""
    hub = tmp_path / "models--THUDM--chatglm2-6b"
    snapshot = hub / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for number, (name, content) in enumerate(published().items()):
        (hub / "blobs" / f"{number:040d}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number:040d}")
    assert open_checkpoint(snapshot).config.num_hidden_layers == 3
    origin = locate(snapshot).origin
    assert origin is not None
    assert (origin.name, origin.revision, len(origin.files)) == (ID, "abc123", len(published()))
    assert locate(hub).origin == origin


def test_every_verb_takes_an_id(hub: Hub, tmp_path: Path) -> None:
    recipe = gq.load_recipe("int8-rtn", {"check.num_tokens": 64, "check.seq_len": 32, "check.tasks": []})
    quantized = gq.quantize(f"{ID}@main", recipe, out=tmp_path / "int8")
    manifest = quantized.manifest
    assert manifest is not None
    assert (manifest.source_name, manifest.source_revision) == (ID, COMMIT)
    assert manifest.source_files["config.json"] == hash_of("config.json", published()["config.json"])
    local = gq.quantize(CHATGLM2, recipe, out=tmp_path / "local").manifest
    assert local is not None
    assert local.source_fingerprint == manifest.source_fingerprint
    with_id, without = contents(tmp_path / "int8"), contents(tmp_path / "local")
    assert {name for name in with_id if with_id[name] != without[name]} == {"glmquant.json"}
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    (tmp_path / "text.txt").write_text("Hello world, 你好世界。" * 60, encoding="utf-8")
    report = gq.check(bundle, baseline=ID, recipe=recipe, text=tmp_path / "text.txt")
    assert report.setting.baseline.name == ID
    assert gq.calibrate(
        ID, gq.load_recipe("int4-g128-gptq", {"calibration.num_samples": 2, "calibration.seq_len": 32}),
        data=tmp_path / "text.txt", out=tmp_path / "calibration",
    )  # fmt: skip


def test_another_model_of_the_hub(hub: Hub) -> None:
    hub.repositories["THUDM/chatglm3-6b"] = Repository.of(GOLDEN["chatglm3-tiny"])
    assert gq.inspect("THUDM/chatglm3-6b").config.family == "chatglm3"
    with pytest.raises(GlmQuantError, match="no repository THUDM/chatglm4-6b"):
        gq.inspect("THUDM/chatglm4-6b")


def test_a_ref_that_leads_out_of_the_cache_is_none(hub: Hub, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(CHATGLM2, tmp_path / "elsewhere")
    refs = cache / "models--THUDM--chatglm2-6b" / "refs"
    refs.mkdir(parents=True)
    (refs.parent / "snapshots").mkdir()
    (refs / "main").write_text("../../../elsewhere")
    assert locate(ID).path.name == COMMIT
