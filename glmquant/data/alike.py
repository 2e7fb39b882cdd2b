"""Labels that look alike and are not the same."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from glmquant.errors import DataError

log = logging.getLogger("glmquant")

MOST_TOLD: Final = 3
FILLERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Invisible, though Unicode counts them as letters or marks."""


def refuse_alike(places: Mapping[str, str]) -> None:
    """Looks for labels that a reader cannot tell apart; of those that differ by case alone, a note is told.

    Args:
        places: each label, and where it occurs first.

    Raises:
        DataError: labels that differ by invisible characters, or by how a character is encoded.
    """
    if same := _groups(places, _seen):
        first, second = same[0][:2]
        raise DataError(
            f"the labels {escaped(first)} and {escaped(second)} look alike, and are not the same",
            where=places[second],
            expected=f"the label of {places[first]}, or one that differs from it to the eye",
            hint="write each label in one way: drop byte order marks, zero-width and no-break spaces",
        )
    for labels in _groups(places, lambda label: _seen(label).casefold())[:MOST_TOLD]:
        log.warning("the labels %s differ by case alone; each is taken as one of its own", ", ".join(map(repr, labels)))


def escaped(label: str) -> str:
    """A label in quotes, every character that is not seen, or joins the one before it, by its code."""
    return (
        "'" + "".join(_code(each) if _is_hidden(each) or unicodedata.combining(each) else each for each in label) + "'"
    )


def _groups(labels: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    groups = defaultdict(list)
    for label in labels:
        groups[key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _seen(label: str) -> str:
    """A label without what is not seen: every blank is a space, and a character has one encoding."""
    shown = "".join(" " if each.isspace() else each for each in label if each.isspace() or not _is_hidden(each))
    return unicodedata.normalize("NFC", " ".join(shown.split()))


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    selector = "\ufe00" <= character <= "\ufe0f"
    return (
        category in ("Cc", "Cf", "Zl", "Zp")
        or (category == "Zs" and character != " ")
        or selector
        or character in FILLERS
    )


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08x}"
