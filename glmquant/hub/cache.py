"""The cache of huggingface_hub: ``models--ORG--NAME`` with ``blobs``, ``refs``, and ``snapshots`` of links."""

import os
import re
from pathlib import Path
from typing import Final

from glmquant.core.files import write_atomically, write_text
from glmquant.core.origin import Origin
from glmquant.hub.choice import needed
from glmquant.hub.names import COMMIT, RepoId

_FOLDER: Final = re.compile(r"models--([^-].*?)--(.+)")
_PLAIN: Final = re.compile(r"[0-9A-Za-z_][\w.-]{0,127}", re.ASCII)


def repository(name: str) -> Path:
    """Where the cache has, or will have, a repository."""
    from huggingface_hub import constants

    return Path(os.path.expanduser(constants.HF_HUB_CACHE)) / f"models--{name.replace('/', '--')}"


def cached_snapshot(repo: RepoId) -> Path | None:
    """The snapshot of a revision, complete or not; None where the cache has none."""
    root, revision = repository(repo.name), repo.asked_for
    commit = revision if COMMIT.fullmatch(revision) else _commit_of(root / "refs" / revision)
    snapshot = root / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def publish(blob: Path, snapshot: Path, name: str) -> None:
    """Gives a finished blob its name in a snapshot, by a link; by a hard one where there is no right to make others.

    Raises:
        OSError: as the operating system says.
    """
    target = snapshot / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(os.path.relpath(blob, target.parent))
    except (OSError, NotImplementedError):
        os.link(blob, target)


def write_ref(root: Path, revision: str, commit: str) -> None:
    """Notes which commit a branch or tag is. Raises OSError as the operating system says."""
    path = root / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path, shared=True) as unfinished:
        write_text(unfinished, commit)


def origin_of(directory: Path) -> Origin | None:
    """Where a snapshot comes from, by its place in a cache; None for any other directory."""
    found = _FOLDER.fullmatch(directory.parent.parent.name)
    if found is None or directory.parent.name != "snapshots" or not directory.is_dir():
        return None
    names = [path.name for path in directory.iterdir()]
    links = {name: directory / name for name in needed(names) if (directory / name).is_symlink()}
    hashes = {name: Path(os.readlink(link)).name for name, link in sorted(links.items())}
    return Origin(f"{found[1]}/{found[2]}", directory.name, hashes)


def _commit_of(ref: Path) -> str | None:
    try:
        with ref.open("rb") as file:
            text = file.read(200).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if _PLAIN.fullmatch(text) else None
