"""What downloads leave in a file's place, from public reports: told by its bytes, with a step that is no circle."""

import gzip
import re
import subprocess
from pathlib import Path

import pytest

from glmquant.core.placeholders import fetch_again, refuse_packed, refuse_placeholder, refuse_placeholder_at
from glmquant.errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1018370\n"
HTML = b"<!DOCTYPE html>\n<html>\n<head><title>THUDM/chatglm2-6b at main</title></head><body></body></html>\n"

CONTENTS = {
    "chatchat-space/Langchain-Chatchat#3103: git clone without LFS": (POINTER, "Git LFS pointer"),
    "aliyun/qwen-dianjin#15: the pointer of tokenizer.json": (POINTER, "Git LFS pointer"),
    "foldl/chatllm.cpp#20: cloned with Windows line ends": (POINTER.replace(b"\n", b"\r\n"), "Git LFS pointer"),
    "git-lfs before 1.0": (b"version http://hawser.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "google/sentencepiece#1054: requests.get without a login": (HTML, "HTML page"),
    "a page saved by a browser": (b"\xef\xbb\xbf\r\n  <html lang=zh><head>", "HTML page"),
    "a page after a comment": (b"<!-- saved from url=(0032)https://x -->\n<!doctype HTML><html>", "HTML page"),
    "XHTML": (b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml">', "HTML page"),
    "zai-org/ChatGLM2-6B#67: the hub says that there is no entry": (b"Entry not found", "server's error"),
    "a gated model": (b"Access to model X is restricted. You must be authenticated", "server's error"),
    "an expired token": (b"Invalid credentials in Authorization header", "server's error"),
    "an API's answer": (b'{"error":"Repository not found"}', "server's error"),
    "object storage": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "storage service's error"),
}

PACKED = {
    "gzip": (gzip.compress(b"x"), "compressed (gzip)"),
    "zip": (b"PK\x03\x04rest", "compressed (zip)"),
    "zstd": (b"\x28\xb5\x2f\xfdrest", "compressed (zstd)"),
    "xz": (b"\xfd7zXZ\0rest", "compressed (xz)"),
}


@pytest.mark.parametrize(("content", "named"), CONTENTS.values(), ids=CONTENTS)
def test_it_is_named(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        refuse_placeholder_at(tmp_path / "tokenizer.model")
    assert named in str(caught.value)
    assert "git clone" not in str(caught.value)
    assert str(tmp_path / "tokenizer.model") in str(caught.value)


@pytest.mark.parametrize(("content", "named"), PACKED.values(), ids=PACKED)
def test_a_compressed_file_is_named(content: bytes, named: str, tmp_path: Path) -> None:
    refuse_placeholder(content, tmp_path / "x")  # a .bin of torch is a zip file
    with pytest.raises(CheckpointError, match=re.escape(named)):
        refuse_packed(content, tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"version": "1.0", "error": 3}', b'{"error": 64798}', b"\n\x0e\n\x05<unk>", b"IQ== 0\n", b"not"],
)
def test_files_are_no_placeholders(content: bytes, tmp_path: Path) -> None:
    refuse_placeholder(content, tmp_path / "x")


def test_a_missing_file_is_others_to_tell(tmp_path: Path) -> None:
    refuse_placeholder_at(tmp_path / "nowhere")


def test_git_lfs_is_advised_in_a_repository_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(POINTER)
    with pytest.raises(CheckpointError) as caught:
        refuse_placeholder_at(tmp_path / "tokenizer.model")
    assert "git lfs" not in str(caught.value.hint)
    assert f"hf download ID tokenizer.model --local-dir {tmp_path}" in str(caught.value.hint)
    assert "hf download ID 'a b' --local-dir 'my models'" in fetch_again(Path("my models/a b"))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(CheckpointError) as caught:
        refuse_placeholder_at(tmp_path / "tokenizer.model")
    assert f"`git lfs install`, then `git lfs pull` in {tmp_path}" in str(caught.value.hint)
