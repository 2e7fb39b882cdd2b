"""An output directory that appears whole or not at all.

Work is done in ``OUT.partial``, which is renamed to ``OUT`` at the end. Bad input leaves nothing behind but finished
stages; a kill, Ctrl-C, a full disk, a full GPU or an input that goes away leaves ``OUT.partial``, from which the same
command resumes where its inputs are the same.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from filelock import FileLock, Timeout

from glmquant.core.files import sync_directory, sync_file, write_atomically, write_text
from glmquant.core.ranks import Ranks
from glmquant.errors import DeviceError, GlmQuantError, OutputError

PARTIAL: Final = ".partial"
MARKER: Final = ".glmquant-partial"
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_STAGES: Final[Mapping[str, str]] = MappingProxyType({})

log = logging.getLogger("glmquant.store")


@contextmanager
def output_directory(
    out: Path, *, resume_key: str | None = None, stages: Mapping[str, str] = NO_STAGES, replace: bool = False
) -> Iterator[Path]:
    """Yields ``OUT.partial`` to write into.

    Args:
        out: does not exist, or is an empty directory, unless ``replace``.
        resume_key: a hash of all inputs. What an unfinished run with the same key wrote is still there; of a run with
            another key, or without one, nothing is.
        stages: subdirectories that are worth keeping, once finished, whatever a later one runs into; each with a hash
            of its inputs. Of an unfinished run with the same ``resume_key``, those with other inputs are removed.
        replace: whatever ``out`` holds is removed once its successor is whole; of an unfinished run, nothing is kept.

    Raises:
        OutputError: ``out`` holds something, cannot be written, or the disk is full.
    """
    out = out.resolve()
    partial = partial_of(out)
    _require_free(out, replace)
    with ExitStack() as held:
        try:
            held.enter_context(_alone(out))
            _require_free(out, replace)  # another process may just have come to its end
            _prepare(partial, resume_key, stages, anew=replace)
        except OSError as error:
            raise OutputError(
                f"cannot write there: {error.strerror}", where=partial, hint="choose another directory"
            ) from error
        yield from _written(partial, out, resume_key, stages, replace)


@contextmanager
def output_of_first(
    out: Path,
    ranks: Ranks,
    *,
    resume_key: str | None = None,
    stages: Mapping[str, str] = NO_STAGES,
    replace: bool = False,
) -> Iterator[Path | None]:
    """:func:`output_directory` of the first rank; None on the others, who publish nothing."""
    if not ranks.is_first:
        yield None
        return
    with output_directory(out, resume_key=resume_key, stages=stages, replace=replace) as partial:
        yield partial


@contextmanager
def output_of_all(
    out: Path,
    ranks: Ranks,
    *,
    resume_key: str | None = None,
    stages: Mapping[str, str] = NO_STAGES,
    replace: bool = False,
) -> Iterator[Path]:
    """:func:`output_directory`, prepared and published by the first rank, which all of them see: they leave it when
    ``out`` is there.

    Raises:
        OutputError: also on a rank that is on a machine without the directory.
    """
    with output_of_first(out, ranks, resume_key=resume_key, stages=stages, replace=replace) as partial:
        ranks.barrier()
        directory = partial_of(out) if partial is None else partial
        require_seen(directory, ranks)
        yield directory
    ranks.barrier()


def require_seen(directory: Path, ranks: Ranks) -> None:
    """Raises OutputError on a rank that is on a machine without the directory."""
    if not directory.is_dir():
        raise OutputError(
            f"rank {ranks.rank} does not see the directory that the first rank writes to",
            where=directory,
            expected="one file system for all ranks",
            hint="choose an output directory that every machine has under the same path",
        )


def partial_of(out: Path) -> Path:
    """Where a directory is written before it is whole."""
    out = out.resolve()
    return out.with_name(out.name + PARTIAL)


def existing(directory: Path) -> Path:
    """The nearest of its parents, and itself, that is there."""
    return next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())


def _require_free(out: Path, replace: bool) -> None:
    is_finished(out)
    if not replace:
        require_free(out)


def _written(
    partial: Path, out: Path, resume_key: str | None, stages: Mapping[str, str], replace: bool
) -> Iterator[Path]:
    """What comes of ``OUT.partial`` once it was written into, or failed to be."""
    try:
        yield partial
        _publish(partial, out, replace)
    except KeyboardInterrupt:
        log.warning("stopped; %s", _how_to_go_on(partial, resume_key))
        raise
    except Exception as error:
        if _is_disk_full(error):
            hint = f"free some space; {_how_to_go_on(partial, resume_key)}"
            raise OutputError("the disk is full", where=partial, hint=hint) from error
        if isinstance(error.__cause__, OSError) and resume_key is not None and _holds_work(partial):
            log.warning("an input could not be read; %s", _how_to_go_on(partial, resume_key))
        elif _is_bad_input(error):
            _leave(partial, [name for name in stages if (partial / name).is_dir()])
        raise


def _is_bad_input(error: Exception) -> bool:
    """Whether the same command would fail again: a device's memory may be free by then, and so may the disk's."""
    return isinstance(error, GlmQuantError) and not (isinstance(error, DeviceError) or _is_disk_full(error.__cause__))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds ``out`` against other processes: two that write into one ``OUT.partial`` leave neither's output.

    Raises:
        OutputError: another process holds it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError("another process is writing there", where=out, expected="one at a time") from error
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held, which Windows does not let; who takes it next makes another
            path.unlink()
        lock.release()


def _holds_work(partial: Path) -> bool:
    return any(path.name != MARKER for path in partial.iterdir())


def is_finished(out: Path) -> bool:
    """Whether a run has come to its end there. One killed as it did so may have left its marker, which goes now; not so
    that of an unfinished run, given as the output by mistake."""
    if out.is_dir() and out.suffix != PARTIAL:
        (out / MARKER).unlink(missing_ok=True)
    return out.exists()


def require_free(out: Path) -> None:
    """Raises OutputError where ``out`` is a file, or a directory that holds something."""
    if out.exists() and not out.is_dir():
        raise OutputError("the output is a file", where=out, expected="a directory that is empty or does not exist")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(
            "the output directory is not empty",
            where=out,
            expected="one that is empty or does not exist",
            hint="choose another directory",
        )


def require_room(directory: Path, num_bytes: int) -> None:
    """Refuses to begin what the disk will not hold.

    Args:
        directory: to be written; where it or parents of it do not exist, the nearest that does decides.

    Raises:
        OutputError: less than ``num_bytes`` are free there.
    """
    free = shutil.disk_usage(existing(directory)).free
    if free < num_bytes:
        raise OutputError(
            f"the disk has {free / 1e9:.2f} GB free; about {num_bytes / 1e9:.2f} GB will be written",
            where=directory,
            hint="free some space, or choose a directory on another disk",
        )


def _leave(partial: Path, finished: Sequence[str]) -> None:
    if not finished:
        _remove(partial)
        return
    done = ", ".join(finished)
    log.warning("%s keeps what was finished (%s): correct the input, and the same command resumes there", partial, done)


def _prepare(partial: Path, resume_key: str | None, stages: Mapping[str, str], anew: bool) -> None:
    marker = partial / MARKER
    if partial.is_dir() and any(partial.iterdir()):
        if not marker.is_file():
            raise OutputError(
                f"{partial.name} is in the way, and glmquant did not make it",
                where=partial,
                hint="move it away, or choose another directory",
            )
        earlier = _earlier_stages(marker, resume_key)
        if not anew and earlier is not None:
            log.info("resuming from %s", partial)
            _drop_stages(partial, resume_key, earlier, stages)
            return
        log.warning("removed %s, which an unfinished run%s had left", partial, "" if anew else " with other inputs")
        _remove(partial)
    partial.mkdir(parents=True, exist_ok=True)
    _write_mark(partial, resume_key, stages)
    sync_directory(partial.parent)


def _earlier_stages(marker: Path, resume_key: str | None) -> dict[str, str] | None:
    """The stages of an unfinished run with this key; None where what is marked is another's."""
    if resume_key is None:
        return None
    try:
        values = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(values, dict) or values.get("resume_key") != resume_key:
        return None
    stages = values.get("stages")
    return stages if isinstance(stages, dict) else {}


def _drop_stages(partial: Path, resume_key: str | None, earlier: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Removes finished stages with other inputs. The marker names none that is being removed, nor one that is not
    there yet as another: killed on the way, what is left is not taken for a finished stage."""
    kept = {name: key for name, key in earlier.items() if wanted.get(name) == key}
    others = [name for name in {*earlier, *wanted} if name not in kept]
    others += [f"{name}.partial" for name in earlier if name not in wanted]
    stale = sorted(name for name in others if (partial / name).is_dir())
    _write_mark(partial, resume_key, kept)
    for name in stale:
        shutil.rmtree(partial / name)
    if stale:
        log.warning("removed %s of %s: the inputs are others now", ", ".join(stale), partial)
    _write_mark(partial, resume_key, wanted)


def _write_mark(partial: Path, resume_key: str | None, stages: Mapping[str, str]) -> None:
    with write_atomically(partial / MARKER) as unfinished:
        write_text(unfinished, _mark(resume_key, stages))


def _remove(partial: Path) -> None:
    """The marker goes last: killed on the way, what is left is still known as ours."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    (partial / MARKER).unlink(missing_ok=True)
    partial.rmdir()


def _mark(resume_key: str | None, stages: Mapping[str, str]) -> str:
    return json.dumps({"resume_key": resume_key, "stages": dict(stages)}) + "\n"


def _publish(partial: Path, out: Path, replace: bool) -> None:
    for path in (*partial.rglob("*"), partial):
        if path.is_dir():
            sync_directory(path)
        elif path.is_file():
            sync_file(path)
    replaced = out.with_name(out.name + ".replaced")
    if replace and out.exists():
        os.rename(out, replaced)
    elif out.exists():
        out.rmdir()  # Windows renames nothing onto a directory, not even an empty one
    os.rename(partial, out)
    sync_directory(out.parent)
    if replace and replaced.exists():
        shutil.rmtree(replaced)
    (out / MARKER).unlink(missing_ok=True)  # last: a directory without it that is not OUT would be a stranger's


def _how_to_go_on(partial: Path, resume_key: str | None) -> str:
    if resume_key is None:
        return f"{partial} stays until the same command runs again, which starts anew"
    return f"{partial} stays, and the same command resumes from there"


def _is_disk_full(error: BaseException | None) -> bool:
    """Libraries written in Rust tell it in words only."""
    number = error.errno if isinstance(error, OSError) else None
    return number in DISK_FULL or f"os error {errno.ENOSPC}" in str(error)
