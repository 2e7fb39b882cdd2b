"""Atomic files, and text that is the same everywhere."""

import ast
import errno
import os
from pathlib import Path

import pytest

import glmquant
from glmquant.core.files import sync_directory, write_atomically, write_json, write_text

PACKAGE = Path(glmquant.__file__).parent


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with write_atomically(path) as unfinished, unfinished.open("wb") as file:
        file.write(b"new")
        assert names(tmp_path) == ["file.txt.unfinished"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def fail() -> None:
        with write_atomically(path) as unfinished:
            unfinished.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.txt"]


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.txt.unfinished").write_bytes(b"a longer text")
    with write_atomically(tmp_path / "file.txt") as unfinished:
        unfinished.write_bytes(b"new")
    assert (tmp_path / "file.txt").read_bytes() == b"new"
    assert names(tmp_path) == ["file.txt"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        happened.append("directory" if os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)) else "file")
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        happened.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    with write_atomically(tmp_path / "file") as unfinished:
        unfinished.write_bytes(b"x")
    assert happened == ["file", "name", "directory"]


def test_processes_that_write_the_same_file_write_siblings_of_their_own(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "file", shared=True) as unfinished:
        assert str(os.getpid()) in unfinished.name
        unfinished.write_bytes(b"x")
    assert names(tmp_path) == ["file"]


def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(error: int) -> None:
        def refuse(*_: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "open" if error == errno.EACCES else "fsync", refuse)
        sync_directory(tmp_path)
        monkeypatch.undo()

    refusing(errno.EACCES)  # Windows
    refusing(errno.EINVAL)  # some network file systems
    with pytest.raises(OSError, match="Input/output"):
        refusing(errno.EIO)


def test_text_and_json_are_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "一\ntwo\n")
    write_json(tmp_path / "json", {"key": ["一"]}, indent=1)
    assert (tmp_path / "text").read_bytes() == "一\ntwo\n".encode()
    assert (tmp_path / "json").read_bytes() == '{\n "key": [\n  "一"\n ]\n}\n'.encode()


def writes_text_itself(path: Path) -> list[int]:
    """Lines of a module that write text with the platform's line ends: ``write_text`` of a path, ``open`` for text."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (_is_write_text(node) or _opens_text_to_write(node))
    ]


def _is_write_text(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "write_text"


def _opens_text_to_write(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return name in ("open", "fdopen") and any(
        set(mode) <= set("wax+tr") and set(mode) & set("wax") for mode in modes if mode
    )


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.write_text('x', encoding='utf-8')", True),
        ("open(path, 'w')", True),
        ("path.open('a', encoding='utf-8')", True),
        ("path.open(mode='x+')", True),
        ("path.open('wb')", False),
        ("open(path, encoding='utf-8')", False),
        ("write_text(path, 'x')", False),
    ],
)
def test_the_search_knows_what_writes_text(tmp_path: Path, code: str, found: bool) -> None:
    (tmp_path / "module.py").write_text(code)
    assert bool(writes_text_itself(tmp_path / "module.py")) is found


def test_all_text_is_written_by_one_function() -> None:
    """So that its bytes are the same on every platform."""
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    offending = {name for name, path in files.items() if writes_text_itself(path)} - {"core/files.py"}
    assert not offending
