"""The snapshot that is meant where the cache's directory of a model is given."""

from pathlib import Path

import pytest

from glmquant.core.hub_cache import snapshot
from glmquant.errors import CheckpointError


def repository(directory: Path, *revisions: str, main: str | None = None) -> Path:
    path = directory / "models--THUDM--chatglm2-6b"
    for revision in revisions:
        (path / "snapshots" / revision).mkdir(parents=True)
    if main is not None:
        (path / "refs").mkdir(parents=True)
        (path / "refs" / "main").write_text(main)
    return path


def test_the_only_snapshot(tmp_path: Path) -> None:
    path = repository(tmp_path, "abc")
    assert snapshot(path) == snapshot(path / "snapshots") == path / "snapshots" / "abc"


def test_refs_main_decides(tmp_path: Path) -> None:
    path = repository(tmp_path, "abc", "def", main="def\n")
    assert snapshot(path) == path / "snapshots" / "def"


@pytest.mark.parametrize("main", [None, "gone"])
def test_several_snapshots_are_named(tmp_path: Path, main: str | None) -> None:
    path = repository(tmp_path, "abc", "def", main=main)
    with pytest.raises(CheckpointError, match="2 snapshots of the model") as caught:
        snapshot(path)
    assert str(path / "snapshots" / "abc") in str(caught.value.expected)
    advised = Path(str(caught.value.hint).rpartition(" ")[2])
    assert snapshot(advised) == advised


def test_no_snapshot(tmp_path: Path) -> None:
    path = repository(tmp_path)
    (path / "snapshots").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no snapshot"):
        snapshot(path)


@pytest.mark.parametrize("main", ["../../../etc", "a/b", "", "x" * 1000])
def test_a_reference_that_is_none(tmp_path: Path, main: str) -> None:
    with pytest.raises(CheckpointError, match=r"refs/main names|too large"):
        snapshot(repository(tmp_path, "abc", main=main))


def test_other_directories_stay(tmp_path: Path) -> None:
    for name in ("model", "models--x"):
        (tmp_path / name).mkdir()
        assert snapshot(tmp_path / name) == tmp_path / name
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    assert snapshot(tmp_path / "snapshots") == tmp_path / "snapshots"


def test_a_link_to_the_cache_is_the_cache(tmp_path: Path) -> None:
    path = repository(tmp_path, "abc")
    (tmp_path / "mine").symlink_to(path)
    assert snapshot(tmp_path / "mine").resolve() == path / "snapshots" / "abc"
