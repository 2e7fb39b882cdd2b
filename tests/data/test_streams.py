import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from glmquant.data import streams
from glmquant.data.streams import open_data
from glmquant.errors import DataError

LINE = '{"text": "好的, fine"}\n'.encode()


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.ZstdCompressor().compress,
    "zip": lambda content: zipped({"folder/data.jsonl": content, "__MACOSX/data.jsonl": b"x", ".DS_Store": b"x"}),
}


def inside(path: Path) -> bytes:
    with open_data(path).open() as stream:
        return stream.read()


@pytest.mark.parametrize("kind", PACK)
def test_what_is_inside_does_not_depend_on_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(PACK[kind](LINE * 5000))
    assert inside(path) == LINE * 5000


def test_the_name_inside_loses_the_ending_of_its_container(tmp_path: Path) -> None:
    (tmp_path / "c4.jsonl.gz").write_bytes(gzip.compress(LINE))
    assert open_data(tmp_path / "c4.jsonl.gz").suffix == ".jsonl"
    (tmp_path / "c4.zip").write_bytes(PACK["zip"](LINE))
    assert open_data(tmp_path / "c4.zip").suffix == ".jsonl"


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstandard"])
def test_streams_one_behind_another_are_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "parts"
    path.write_bytes(PACK[kind](LINE) + PACK[kind](LINE * 3) + bytes(512))
    assert inside(path) == LINE * 4


def test_compressed_twice_is_read_and_thrice_is_not(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    path.write_bytes(gzip.compress(bz2.compress(LINE)))
    assert inside(path) == LINE
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="more than twice"):
        open_data(path)


@pytest.mark.parametrize("kind", PACK)
def test_a_cut_container_is_no_shorter_text(tmp_path: Path, kind: str) -> None:
    whole = PACK[kind](os.urandom(50_000).hex().encode())
    for share in (0.3, 0.7, 0.97):
        path = tmp_path / "cut"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"cut|damaged"):
            inside(path)


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_ends_in_one_error(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(PACK[kind](b"a" * (32 << 20)))
    with pytest.raises(DataError, match=r"inflates to more than .* MiB, over 200 times its size"):
        inside(path)


def test_text_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(LINE * 200_000))
    assert len(inside(tmp_path / "log.gz")) == len(LINE) * 200_000


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jsonl": LINE, "b.csv": LINE}, ["2 files: a.jsonl, b.csv", "unpack it"]),
        ({}, ["0 files"]),
        ({"word/document.xml": b"x", "[Content_Types].xml": b"x"}, ["a Word document", "plain text"]),
        ({"arr_0.npy": b"x"}, ["numpy arrays"]),
        ({"archive/data.pkl": b"x"}, ["a PyTorch file"]),
        ({"content.xml": b"x", "mimetype": b"x"}, ["an OpenDocument file"]),
        ({"empty.jsonl": b""}, ["nothing inside"]),
    ],
)
def test_a_zip_holds_one_data_file(tmp_path: Path, members: dict[str, bytes], words: list[str]) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(zipped(members))
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_pipe_is_read_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(LINE * 3))
    writer.start()
    assert [inside(pipe), inside(pipe)] == [LINE * 3] * 2
    writer.join()


def test_a_minus_is_standard_input(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from glmquant.data.text import read_documents;"
        "print([list(read_documents(Path('-'))) for _ in range(2)])"
    )
    done = subprocess.run([sys.executable, "-c", program], input=gzip.compress(LINE), capture_output=True, check=True)
    assert done.stdout.decode().strip() == str([["好的, fine\n"]] * 2)


def test_an_endless_pipe_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LARGEST_SPOOL", 1 << 20)
    with pytest.raises(DataError, match="0 GiB came out of it"):
        open_data(Path("/dev/zero"))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_data(tmp_path / "none.txt")
    with pytest.raises(DataError, match="the file is empty"):
        open_data(Path("/dev/null"))
    with pytest.raises(DataError, match="a directory, not a file"):
        open_data(tmp_path)


def test_a_directory_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINE)
    with pytest.raises(DataError, match=r"name its files, one by one: train\.jsonl"):
        open_data(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"save_to_disk[\s\S]*load_from_disk"):
        open_data(tmp_path)


def test_a_missing_reader_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.zst").write_bytes(PACK["zstandard"](LINE))
    with pytest.raises(DataError, match=r"needs the package zstandard[\s\S]*pip install 'glmquant\[data\]'"):
        open_data(tmp_path / "a.zst")


def test_an_unreadable_file_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "locked.txt"
    path.write_bytes(LINE)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(DataError):
        open_data(path)
    path.chmod(stat.S_IRUSR)
