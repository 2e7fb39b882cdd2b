"""Where a model is that a user names: a directory, or a repository in a cache or on the hub."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from glmquant.core.hub_cache import snapshot
from glmquant.core.origin import Origin
from glmquant.errors import HubError
from glmquant.hub import modelscope
from glmquant.hub.cache import cached_snapshot, origin_of
from glmquant.hub.choice import missing_parts
from glmquant.hub.http import UnreachableError
from glmquant.hub.names import RepoId, parse_id
from glmquant.hub.near import local_organization, no_directory
from glmquant.progress import Progress, silent

log = logging.getLogger("glmquant.hub")


@dataclass(frozen=True)
class Located:
    """A model on this machine.

    Attributes:
        path: its directory.
        origin: the repository it is of; None where that is not known.
    """

    path: Path
    origin: Origin | None = None


def locate(model: str | Path, progress: Progress = silent) -> Located:
    """Finds a model, and downloads what is missing of it.

    A directory of that name comes first, then the cache of huggingface_hub, then ModelScope's, then the hub. What a
    cache holds is taken as it is: the hub is not asked whether there is a newer revision.

    Args:
        model: a directory, or an id ``ORG/NAME`` or ``ORG/NAME@REVISION``, which only a string can be.
        progress: is told the bytes of a download.

    Raises:
        CheckpointError: there is no such directory, and the name can be no id.
        HubError: the repository cannot be had.
    """
    path = Path(model)
    if os.path.exists(path):
        found = snapshot(path)
        return Located(found, origin_of(found.absolute()))
    repo = parse_id(model) if isinstance(model, str) else None
    if repo is None:
        raise no_directory(model)
    if os.path.exists(path.parent):
        raise local_organization(repo)
    return _from_caches(repo) or _from_hub(repo, progress)


def _from_caches(repo: RepoId) -> Located | None:
    cached = cached_snapshot(repo)
    if cached is not None and not missing_parts(cached):
        log.info("%s is in the cache: %s", repo, cached)
        return Located(cached, origin_of(cached))
    directory = modelscope.find(repo)
    if directory is None:
        return None
    missing = missing_parts(directory)
    if missing:
        log.warning("%s in ModelScope's cache lacks %s, and is passed over: %s", repo, ", ".join(missing), directory)
        return None
    log.info("%s is in ModelScope's cache: %s", repo, directory)
    return Located(directory, Origin(repo.name))


def _from_hub(repo: RepoId, progress: Progress) -> Located:
    from glmquant.hub.download import download

    begun = cached_snapshot(repo)
    try:
        found = download(repo, repo.asked_for if begun is None else begun.name, progress)
    except UnreachableError as error:
        raise _not_here(repo, begun, error) from error
    return Located(found, origin_of(found))


def _not_here(repo: RepoId, begun: Path | None, error: UnreachableError) -> HubError:
    """The network's error with what is missing here."""
    if begun is None:
        lacks = f"{repo} is not in the cache"
    else:
        lacks = f"{repo} is in the cache without {', '.join(missing_parts(begun))}"
    return HubError(f"{lacks}, and {error.what}", where=begun or error.where, hint=error.hint)
