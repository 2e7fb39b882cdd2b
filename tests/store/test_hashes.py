"""What is noted of the files of an unfinished artifact, and when notes are not believed."""

import hashlib
import json
from pathlib import Path

import pytest

from glmquant.store.hashes import HASHES, WrittenHashes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def noted(tmp_path: Path) -> WrittenHashes:
    hashes = WrittenHashes(tmp_path)
    for name in ("a", "b"):
        hashes.note(name, sha256(name.encode()))
        (tmp_path / name).write_bytes(name.encode())
    return hashes


def test_each_note_leaves_the_others_and_the_last_of_a_name_counts(noted: WrittenHashes) -> None:
    noted.note("b", sha256(b"other"))
    assert noted.noted() == {"a": sha256(b"a"), "b": sha256(b"other")}
    assert noted.damaged(["a", "b"]) == ["b"]


def test_of_the_files_there_those_are_damaged_that_changed_or_that_nobody_noted(
    noted: WrittenHashes, tmp_path: Path
) -> None:
    (tmp_path / "stranger").write_bytes(b"x")
    assert noted.damaged(["a", "b", "missing", "stranger"]) == ["stranger"]
    (tmp_path / "a").write_bytes(b"A")
    assert noted.damaged(["a", "b", "missing", "stranger"]) == ["a", "stranger"]


def test_notes_as_of_writing_are_not_replaced_by_what_another_file_says(noted: WrittenHashes, tmp_path: Path) -> None:
    noted.take_over({"a": sha256(b"changed since")})
    assert noted.noted()["a"] == sha256(b"a")
    noted.forget()
    noted.take_over({})
    assert not (tmp_path / HASHES).exists()
    noted.take_over({"a": sha256(b"as it was finished")})
    assert noted.noted() == {"a": sha256(b"as it was finished")}


@pytest.mark.parametrize("edit", ["seal removed", "hash changed", "seal moved"])
def test_notes_that_somebody_edited_are_not_believed(noted: WrittenHashes, tmp_path: Path, edit: str) -> None:
    """Whoever changed a shard could have changed its hash."""
    text = (tmp_path / HASHES).read_text()
    seal = text.splitlines()[1]
    changed = {
        "seal removed": text.replace(f"{seal}\n", ""),
        "hash changed": text.replace(sha256(b"a"), sha256(b"A")),
        "seal moved": json.dumps(dict(reversed(json.loads(text).items())), indent=1),
    }[edit]
    assert changed != text
    (tmp_path / HASHES).write_text(changed)
    assert noted.noted() == {}
    assert noted.damaged(["a", "b"]) == ["a", "b"]


def test_nothing_noted_is_no_error_and_is_forgotten_twice(tmp_path: Path) -> None:
    hashes = WrittenHashes(tmp_path)
    assert hashes.noted() == {}
    hashes.forget()
    hashes.forget()
