"""Ids of repositories: ``ORG/NAME``, or ``ORG/NAME@REVISION``."""

import re
from dataclasses import dataclass
from typing import Final

DEFAULT_REVISION: Final = "main"
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ID: Final = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./+-]*))?", re.ASCII)
_LONGEST: Final = 96
_IN_NO_NAME: Final = ("--", "..")
_PAGE: Final = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.(?:cn|com)/models)/"
    r"([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/([\w.+-]+))?(?:[/?#].*)?",
    re.ASCII,
)


@dataclass(frozen=True)
class RepoId:
    """A repository of models.

    Attributes:
        name: ``ORG/NAME``.
        revision: a branch, a tag or a commit; None for the default branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def asked_for(self) -> str:
        """The revision, the default one where none is given."""
        return self.revision or DEFAULT_REVISION


def parse_id(text: str) -> RepoId | None:
    """The id that ``text`` is; None for what can only be a path, such as ``./a/b``, ``a/b/c`` or ``a``."""
    found = _ID.fullmatch(text)
    if found is None or ".." in text:
        return None
    name, revision = found.groups()
    if len(name) > _LONGEST or name.endswith(".git") or any(part in name for part in _IN_NO_NAME):
        return None
    return RepoId(name, revision)


def id_of_page(address: str) -> RepoId | None:
    """The id of the model whose page, or file, on a hub ``address`` is."""
    found = _PAGE.fullmatch(address)
    if found is None:
        return None
    name, revision = found.groups()
    named = name.removesuffix(".git")
    return parse_id(named if revision in (None, DEFAULT_REVISION, "master") else f"{named}@{revision}")
