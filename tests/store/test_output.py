"""Output directories appear whole or not at all."""

import logging
import os
from pathlib import Path

import pytest

from glmquant.errors import CheckpointError, OutputError
from glmquant.store.output import MARKER, is_finished, output_directory, require_free


def files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


STAGES = {"a": "1", "b": "2", "c": "3"}


def write_and_raise(out: Path, error: BaseException, resume_key: str | None = None) -> None:
    with output_directory(out, resume_key=resume_key) as partial:
        (partial / "first").write_text("1")
        raise error


def fill_disk(out: Path, resume_key: str | None = None) -> None:
    """A write that the operating system answers as it does on a full disk."""
    with (
        output_directory(out, resume_key=resume_key) as partial,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        (partial / "first").write_text("1")
        full.write(b"x")


def interrupted(out: Path, resume_key: str | None = None) -> None:
    """A run that is stopped after its first file."""
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(out, KeyboardInterrupt(), resume_key)


@pytest.mark.parametrize("resume_key", [None, "key"])
def test_what_is_written_appears_under_its_name(tmp_path: Path, resume_key: str | None) -> None:
    out = tmp_path / "runs" / "int4"
    with output_directory(out, resume_key=resume_key) as partial:
        assert partial == tmp_path / "runs" / "int4.partial"
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("x")
        assert not out.exists()
    assert files(out) == {"sub/a": "x"}
    assert not partial.exists()


def test_an_empty_directory_may_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with output_directory(Path("out")) as partial:
        (partial / "a").write_text("x")
    assert files(tmp_path / "out") == {"a": "x"}


def test_an_occupied_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, message in (("out", "not empty"), ("file", "is a file"), ("file/out", "cannot write there")):
        with pytest.raises(OutputError, match=message), output_directory(tmp_path / name):
            pytest.fail("work began")
    assert files(tmp_path) == {"out/mine": "precious", "file": "precious"}


def test_an_unwritable_parent_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot write there"), output_directory(Path("/proc/glmquant/out")):
        pytest.fail("work began")


@pytest.mark.parametrize("resume_key", [None, "key"])
def test_bad_input_leaves_nothing(tmp_path: Path, resume_key: str | None) -> None:
    with pytest.raises(CheckpointError):
        write_and_raise(tmp_path / "out", CheckpointError("broken"), resume_key)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    interrupted(out, "key")
    assert "the same command resumes from there" in caplog.text
    with caplog.at_level(logging.INFO, "glmquant.store"), output_directory(out, resume_key="key") as partial:
        assert (partial / "first").read_text() == "1"
        (partial / "second").write_text("2")
    assert "resuming from" in caplog.text
    assert files(out) == {"first": "1", "second": "2"}


@pytest.mark.parametrize(("before", "after"), [("key", "other"), ("key", None), (None, "key"), (None, None)])
def test_what_other_inputs_left_is_never_mixed_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str | None, after: str | None
) -> None:
    out = tmp_path / "out"
    interrupted(out, before)
    with output_directory(out, resume_key=after) as partial:
        assert not (partial / "first").exists()
        (partial / "second").write_text("2")
    assert "removed" in caplog.text
    assert files(out) == {"second": "2"}


def test_a_directory_that_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("precious")
    with pytest.raises(OutputError, match="glmquant did not make it"), output_directory(tmp_path / "out"):
        pytest.fail("work began")
    assert files(tmp_path) == {"out.partial/mine": "precious"}


@pytest.mark.parametrize(("resume_key", "how"), [("key", "resumes from there"), (None, "starts anew")])
def test_a_full_disk_says_how_to_go_on(tmp_path: Path, resume_key: str | None, how: str) -> None:
    with pytest.raises(OutputError, match=rf"the disk is full[\s\S]*free some space[\s\S]*{how}"):
        fill_disk(tmp_path / "out", resume_key)
    assert (tmp_path / "out.partial" / "first").read_text() == "1"


def test_a_full_disk_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"):
        write_and_raise(tmp_path / "out", RuntimeError("I/O error: No space left on device (os error 28)"))


def test_a_full_disk_within_another_output_keeps_both(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), output_directory(tmp_path / "run") as run:
        fill_disk(run / "model", "key")
    assert (tmp_path / "run.partial" / "model.partial" / "first").exists()


def test_other_failures_keep_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_raise(tmp_path / "out", ZeroDivisionError(), "key")
    assert (tmp_path / "out.partial" / "first").exists()


def test_a_run_killed_as_it_ends_has_ended(tmp_path: Path) -> None:
    """The marker is the last to go: a kill before that leaves it in OUT."""
    out = tmp_path / "out"
    with output_directory(out) as partial:
        (partial / "a").write_text("x")
    (out / MARKER).write_text("")
    assert is_finished(out)
    assert files(out) == {"a": "x"}
    (out / MARKER).write_text("")
    with pytest.raises(OutputError, match="not empty"), output_directory(out):
        pass
    assert files(out) == {"a": "x"}
    assert not is_finished(tmp_path / "other")


def test_the_marker_outlives_everything_else_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "out", "one")
    (tmp_path / "out.partial" / "sub").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("glmquant.store.output.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt), output_directory(tmp_path / "out", resume_key="two"):
            pass
    with output_directory(tmp_path / "out", resume_key="two") as partial:
        assert [path.name for path in partial.iterdir()] == [MARKER]


def interrupted_after_stages(out: Path, *names: str) -> None:
    with pytest.raises(KeyboardInterrupt), output_directory(out, resume_key="k", stages=STAGES) as partial:
        stop_after(partial, *names)


def stop_after(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir()
    raise KeyboardInterrupt


def test_of_an_unfinished_run_only_stages_with_the_same_inputs_stay(tmp_path: Path) -> None:
    interrupted_after_stages(tmp_path / "out", "a", "b", "c.partial")
    with output_directory(tmp_path / "out", resume_key="k", stages={"a": "1", "b": "other"}) as partial:
        assert {path.name for path in partial.iterdir()} == {"a", MARKER}


def test_a_stage_that_is_half_removed_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_after_stages(tmp_path / "out", *STAGES)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    other = STAGES | {"b": "other"}
    with monkeypatch.context() as patched:
        patched.setattr("glmquant.store.output.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt), output_directory(tmp_path / "out", resume_key="k", stages=other):
            pass
    with output_directory(tmp_path / "out", resume_key="k", stages=STAGES) as partial:
        assert {path.name for path in partial.iterdir()} == {"a", "c", MARKER}


def test_nobody_is_told_to_remove_what_is_in_the_way(tmp_path: Path) -> None:
    """It may be the model."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="not empty") as error:
        require_free(tmp_path)
    assert error.value.hint == "choose another directory"


def test_two_that_write_to_one_output_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_directory(out) as partial:
        (partial / "a").write_text("first")
        with pytest.raises(OutputError, match="another process is writing there"), output_directory(out):
            pass
    assert files(out) == {"a": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with output_directory(out, replace=True) as partial:
        (partial / "a").write_text("second")
    assert files(out) == {"a": "second"}


def test_all_that_is_written_is_on_the_disk_before_the_output_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, and the names in every directory; the name of the output itself afterwards."""
    synced: list[int] = []
    before: set[int] = set()
    fsync, rename = os.fsync, os.rename

    def noting_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noting_rename(old: Path, new: Path) -> None:
        before.update(synced)
        synced.clear()
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting_rename)
    with output_directory(tmp_path / "out") as partial:
        (partial / "a" / "b").mkdir(parents=True)
        for name in ("x", "a/y", "a/b/z"):
            (partial / name).write_text(name)
        written = {path.stat().st_ino for path in (partial, *partial.rglob("*"))}
    assert written <= before
    assert synced == [tmp_path.stat().st_ino]


def test_the_marker_of_an_unfinished_run_is_on_the_disk_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    with output_directory(tmp_path / "out", resume_key="k") as partial:
        assert {path.stat().st_ino for path in (tmp_path, partial, partial / MARKER)} <= synced
