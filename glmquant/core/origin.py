"""Where a checkpoint was published, in words that mean the same on every machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """A repository at one moment.

    Attributes:
        name: ``ORG/NAME``.
        revision: the commit; None where a cache does not tell it.
        files: file name to hash, as the repository has it: sha256 of a large file, git's sha1 of another.
    """

    name: str
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
