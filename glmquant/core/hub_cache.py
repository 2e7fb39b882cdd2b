"""The hub's cache as a place to read from: which snapshot is meant where its repository's directory is given."""

import logging
import re
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import REPOSITORY, parse_text, read_bytes, shown
from glmquant.errors import CheckpointError

log = logging.getLogger("glmquant")

REVISION: Final = re.compile(r"[\w.-]+")
LONGEST_REVISION: Final = 200
MOST_NAMED: Final = 5


def snapshot(directory: Path) -> Path:
    """The snapshot to read where ``directory`` is ``models--ORG--NAME``; any other directory as it is.

    ``refs/main`` decides, else the only snapshot.

    Raises:
        CheckpointError: no snapshot, or several and nothing that says which.
    """
    repository = directory.parent if directory.name == "snapshots" else directory
    snapshots = repository / "snapshots"
    if not REPOSITORY.fullmatch(repository.resolve().name) or not snapshots.is_dir():
        return directory
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    main = _named_by_main(repository)
    chosen = next((path for path in found if path.name == main), found[0] if len(found) == 1 else None)
    if chosen is None:
        raise _undecided(repository, found)
    log.info("reading revision %s of %s", chosen.name, repository.name)
    return chosen


def _named_by_main(repository: Path) -> str | None:
    path = repository / "refs" / "main"
    if not path.exists():
        return None
    name = parse_text(read_bytes(path, LONGEST_REVISION), path).strip()
    if not REVISION.fullmatch(name):
        raise CheckpointError(f"refs/main names {shown(name)}", where=path, expected="the revision of a snapshot")
    return name


def _undecided(repository: Path, found: list[Path]) -> CheckpointError:
    if not found:
        return CheckpointError(
            "the hub's cache holds no snapshot of the model",
            where=repository,
            expected="a directory in snapshots/",
            hint="download the model again",
        )
    return CheckpointError(
        f"the hub's cache holds {len(found)} snapshots of the model, and refs/main names none of them",
        where=repository,
        expected="the directory of one: " + ", ".join(str(path) for path in found[:MOST_NAMED]),
        hint=f"give the one you mean, such as {found[-1]}",
    )
