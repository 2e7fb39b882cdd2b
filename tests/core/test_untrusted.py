"""Names and JSON from a directory that nobody vouches for."""

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
