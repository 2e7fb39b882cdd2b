"""ModelScope's cache: plain directories ``ORG/NAME``, in one of four places, dots in names written ``___``."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glmquant.hub.names import RepoId

_PLACES: Final = ("models", "", "hub/models", "hub")
"""Below ``MODELSCOPE_CACHE``; releases and documents disagree on whether it includes ``hub``."""


def find(repo: RepoId) -> Path | None:
    """The directory in which ModelScope keeps a repository.

    It holds one revision, and does not say which: where a revision is asked for, it is not taken.
    """
    if repo.revision is not None:
        return None
    return next((path for path in _candidates(repo.name) if path.is_dir()), None)


def _candidates(name: str) -> Iterator[Path]:
    root = Path(os.path.expanduser(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"))
    for place in _PLACES:
        for spelled in dict.fromkeys((name, name.replace(".", "___"))):
            yield root / place / spelled
