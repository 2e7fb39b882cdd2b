"""What its owner says about a data file; all else is told by its content."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import yaml

LONGEST_NAME: Final = 200
SIMPLE: Final = re.compile(r"[\w.+\-/]+")


@dataclass(frozen=True)
class Reading:
    """How to read a data file.

    Attributes:
        section: the recipe's section whose keys these are; empty where they are parameters of a function.
        encoding: of its text; None: UTF-8, or UTF-16 with its mark.
        text_field: the field that holds the text or the conversation, or ``question+answer``, two fields that make one;
            None: the usual ones.
        label_field: the field that holds the label; None: the usual ones.
        options: how a caller without a recipe spells these, by name.
    """

    section: str = ""
    encoding: str | None = None
    text_field: str | None = None
    label_field: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def advice(self, name: str, value: str, path: Path) -> str:
        """How to say it: ``set calibration.text_field=review``."""
        told = _spelled(value)
        if name in self.options:
            return f"give {self.options[name]} {told}"
        if not self.section:
            return f"give {told} as `{name}`"
        if self.section == "check.tasks":
            return f"set check.tasks=[{{data: {_spelled(str(path))}, {name}: {told}}}]"
        return f"set {self.section}.{name}={told}"


def _spelled(text: str) -> str:
    """A text as YAML reads it: as it is, unless that would be a number, a truth value or more than one text."""
    is_plain = SIMPLE.fullmatch(text) is not None and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


USUAL: Final = Reading()
"""What is read where its owner says nothing."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is most like ``name``, if one is."""
    by_folded = {each.casefold()[:LONGEST_NAME]: each for each in names}
    near = get_close_matches(name.casefold()[:LONGEST_NAME], by_folded, n=1)
    return by_folded[near[0]] if near else None
