"""What lies in place of a file, and the advice for each."""

import json
from pathlib import Path

import pytest

from glmquant.core.stand_ins import published_as, refuse_stand_in
from glmquant.core.untrusted import read_json
from glmquant.errors import CheckpointError
from tests.support.handed import HTML_PAGE, LFS_POINTER


def hint(path: Path, start: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        refuse_stand_in(path, start)
    assert caught.value.where == path
    return str(caught.value.hint)


def test_a_pointer_in_a_clone_names_the_clone(tmp_path: Path) -> None:
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    assert f"`git lfs pull` in {tmp_path / 'clone'}" in hint(tmp_path / "clone" / "tokenizer.model", LFS_POINTER)


def test_a_pointer_without_a_clone_names_the_address(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "THUDM/chatglm2-6b"}))
    advice = hint(tmp_path / "tokenizer.model", LFS_POINTER)
    assert f"`hf download THUDM/chatglm2-6b tokenizer.model --local-dir {tmp_path}`" in advice
    assert "https://huggingface.co/THUDM/chatglm2-6b/resolve/main/tokenizer.model" in advice


@pytest.mark.parametrize(
    "start",
    [
        HTML_PAGE,
        b"\xef\xbb\xbf\n  <html>",
        b"<!doctype HTML PUBLIC>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    ],
)
def test_a_page_says_how_the_file_is_fetched(tmp_path: Path, start: bytes) -> None:
    assert "/resolve/ where that of its page has /blob/" in hint(tmp_path / "config.json", start)


@pytest.mark.parametrize("start", [b"", b"{}", b"PK\x03\x04", b"<|user|>", b"<xml>", b"version 2", b"\x0a\x0e\x0a"])
def test_other_files_pass(tmp_path: Path, start: bytes) -> None:
    refuse_stand_in(tmp_path / "x", start)


def test_json_is_looked_at_first(tmp_path: Path) -> None:
    for content, message in ((LFS_POINTER, "Git LFS pointer"), (HTML_PAGE, "an HTML page, not config.json")):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_json(tmp_path / "config.json")


def test_the_published_name_comes_from_the_cache_or_the_configuration(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--THUDM--glm-4-9b-chat" / "snapshots" / "abc"
    assert published_as(snapshot) == "THUDM/glm-4-9b-chat"
    for value in ("/data/chatglm2", "./x", "a b/c", 7, None):
        (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": value}))
        assert published_as(tmp_path) is None
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert published_as(tmp_path) is None
