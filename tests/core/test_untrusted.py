"""Names and JSON from a directory that nobody vouches for."""

import json
import os
from pathlib import Path

import pytest

from glmquant.core.untrusted import file_inside, read_json, shown
from glmquant.errors import CheckpointError


def test_a_file_and_a_link_inside(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("x")
    (tmp_path / "link").symlink_to("sub/a")
    assert file_inside(tmp_path, "sub/a", where="index") == tmp_path / "sub" / "a"
    assert file_inside(tmp_path, "link", where="index") == tmp_path / "sub" / "a"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "sub/../../a", "", "a\0b", "..", "a\\b"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"leads out of the checkpoint directory[\s\S]*where: index"):
        file_inside(tmp_path, name, where="index")


def test_links_that_lead_out(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    (inside / "file").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    for name in ("file", "folder/secret"):
        with pytest.raises(CheckpointError, match=r"link out[\s\S]*--local-dir"):
            file_inside(inside, name, where="index")


def cache(directory: Path) -> tuple[Path, Path]:
    """A snapshot of the hub's cache, and the blobs beside it."""
    repository = directory / "hub" / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "sub").mkdir(parents=True)
    (repository / "blobs" / "1").write_text("x")
    return repository / "snapshots" / "abc", repository / "blobs"


def test_links_inside_the_hubs_cache(tmp_path: Path) -> None:
    snapshot, blobs = cache(tmp_path)
    (snapshot / "file").symlink_to("../../blobs/1")
    (snapshot / "sub" / "file").symlink_to("../../../blobs/1")
    (snapshot / "absolute").symlink_to(blobs / "1")
    for name in ("file", "sub/file", "absolute"):
        assert file_inside(snapshot, name, where="index") == blobs / "1"
    assert file_inside(snapshot / "sub", "file", where="index") == blobs / "1"
    (tmp_path / "mine").symlink_to(snapshot)
    assert file_inside(tmp_path / "mine", "file", where="index") == blobs / "1"


def test_links_to_the_blobs_that_a_cache_shares(tmp_path: Path) -> None:
    """As huggingface_hub 2.4 leaves them: snapshot, then blob of the repository, then blob of the cache."""
    snapshot, blobs = cache(tmp_path)
    digest = "ab" + "0" * 62
    shared = tmp_path / "hub" / "blobs" / "ab" / digest
    shared.parent.mkdir(parents=True)
    shared.write_text("x")
    (blobs / "2").symlink_to(f"../../blobs/ab/{digest}")
    (snapshot / "file").symlink_to("../../blobs/2")
    assert file_inside(snapshot, "file", where="index") == shared


@pytest.mark.parametrize("target", ["hub/other", "hub/models--c--d/blobs/1", "hub/blobs/ab/short", "secret"])
def test_links_out_of_the_hubs_cache(tmp_path: Path, target: str) -> None:
    snapshot, blobs = cache(tmp_path)
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / target).write_text("x")
    (snapshot / "file").symlink_to(tmp_path / target)
    (blobs / "2").symlink_to(tmp_path / target)
    (snapshot / "twice").symlink_to("../../blobs/2")
    for name in ("file", "twice"):
        with pytest.raises(CheckpointError, match="link out"):
            file_inside(snapshot, name, where="index")


def test_blobs_that_are_a_link_to_another_place_are_not_the_caches_own(tmp_path: Path) -> None:
    snapshot, blobs = cache(tmp_path)
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    (snapshot / "file").symlink_to("../../blobs/1")
    with pytest.raises(CheckpointError, match="link out"):
        file_inside(snapshot, "file", where="index")


def test_what_only_looks_like_the_hubs_cache_reaches_nothing_more(tmp_path: Path) -> None:
    inside = tmp_path / "models--a--b" / "checkpoint"
    inside.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "1").write_text("x")
    (inside / "file").symlink_to("../blobs/1")
    with pytest.raises(CheckpointError, match="link out"):
        file_inside(inside, "file", where="index")


def test_links_into_the_cache_from_elsewhere_are_told_where_to_go(tmp_path: Path) -> None:
    """``hf download --local-dir`` of huggingface_hub before 0.23 made such links."""
    snapshot, blobs = cache(tmp_path)
    (snapshot / "file").symlink_to("../../blobs/1")
    local = tmp_path / "local"
    local.mkdir()
    (local / "file").symlink_to(blobs / "1")
    with pytest.raises(CheckpointError, match="link out") as caught:
        file_inside(local, "file", where="index")
    assert caught.value.hint == f"give {blobs.parent}, where the links lead"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_link_in_the_cache_to_what_is_no_file(tmp_path: Path, kind: str) -> None:
    snapshot, blobs = cache(tmp_path)
    os.mkfifo(blobs / "pipe")
    (blobs / "folder").mkdir()
    (blobs / "device").symlink_to("/dev/zero")
    (snapshot / "file").symlink_to(f"../../blobs/{kind}")
    with pytest.raises(CheckpointError, match=r"regular file|link out"):
        file_inside(snapshot, "file", where="index")


def test_a_link_that_leads_nowhere_is_told_to(tmp_path: Path) -> None:
    """debpalash/VoiceStudio#1056: blobs there, links dangling."""
    snapshot, _ = cache(tmp_path)
    (snapshot / "file").symlink_to("../../blobs/gone")
    with pytest.raises(CheckpointError, match="a link that leads nowhere"):
        file_inside(snapshot, "file", where="index")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("folder", "regular"),
        ("pipe", "regular"),
        ("loop", "cannot be opened"),
        ("gone", "missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            file_inside(tmp_path, name, where="index")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "the JSON is a list"),
        (b'{"a": }', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is given twice"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' * 100_000, "not valid JSON"),
        (b'{"a": "' + b"x" * 100 + b'"}', "too large"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path, 64 if message == "too large" else 10 << 20)
    assert caught.value.where == path


CONFIG = {"name": "模型", "a": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_with_its_encodings_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG, ensure_ascii=False), encoding=encoding)
    assert read_json(path) == CONFIG


@pytest.mark.parametrize(
    ("encoding", "named"), [("gbk", "gb18030"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")]
)
def test_json_in_another_encoding_is_named_and_the_hint_converts_it(tmp_path: Path, encoding: str, named: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG, ensure_ascii=False), encoding=encoding)
    with pytest.raises(CheckpointError, match=f"not valid JSON: not UTF-8, it looks like {named}") as caught:
        read_json(path)
    assert caught.value.hint is not None
    exec(caught.value.hint.partition('"')[2].removesuffix('"'))
    assert read_json(path) == CONFIG


def test_a_mark_that_lies_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="not in the encoding of its mark"):
        read_json(path)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_json(path)
    with pytest.raises(CheckpointError, match="cannot read: No such file"):
        read_json(tmp_path / "gone")


def test_names_fit_to_print() -> None:
    assert shown("\ud800\n\x1b") == "'\\ud800\\n\\x1b'"
    assert len(shown("x" * 10**6)) < 200
