"""What a checkpoint's own model card, its ``README.md``, says of its license and its languages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from glmquant.core.untrusted import file_inside, read_bytes
from glmquant.errors import CheckpointError
from glmquant.inert import inert_line

CARD: Final = "README.md"
LARGEST: Final = 1 << 20
FENCE: Final = "---\n"
LONGEST: Final = 1 << 15
"""Characters of the metadata; PyYAML takes half a minute for a card of nothing else."""

MOST: Final = 20
"""Values of a list, characters of a value ten times as many."""


@dataclass(frozen=True)
class BaseCard:
    """Of the metadata on top of a card, as the Hugging Face hub defines them.

    Attributes:
        license: an identifier such as ``apache-2.0``, or ``other``; None where the card says none, or there is no card.
        license_name, license_link: of one that is ``other``.
        languages: ISO 639 codes.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()


def read_base_card(directory: Path) -> BaseCard:
    """Of the directory's card; of one that is missing or damaged, nothing is known."""
    if not (directory / CARD).is_file():
        return BaseCard()
    try:
        text = read_bytes(file_inside(directory, CARD, where=directory), LARGEST).decode("utf-8", "replace")
        values = _metadata(text.replace("\r\n", "\n").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    except (CheckpointError, yaml.YAMLError, ValueError, RecursionError):
        return BaseCard()
    languages = values.get("language")
    named = languages if isinstance(languages, list) else [languages]
    return BaseCard(
        license=_word(values.get("license")),
        license_name=_word(values.get("license_name")),
        license_link=_word(values.get("license_link")),
        languages=tuple(word for each in named[:MOST] if (word := _word(each))),
    )


def _metadata(text: str) -> dict[str, Any]:
    if not text.startswith(FENCE):
        return {}
    block, closed, _ = text.removeprefix(FENCE).partition(f"\n{FENCE}")
    values = yaml.load(block, _WithoutAliases) if closed and len(block) <= LONGEST else None
    return values if isinstance(values, dict) else {}


class _WithoutAliases(yaml.SafeLoader):
    """What stands for something else could stand for much."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _word(value: Any) -> str | None:
    """YAML reads the language ``no`` as false; nothing else than text is one."""
    return inert_line(value)[: 10 * MOST] or None if isinstance(value, str) else None
