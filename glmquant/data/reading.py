"""What its owner says about a data file; all else is told by its content."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

SIMPLE: Final = re.compile(r"[\w./+\-]+")


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
        told = _yaml(value)
        if name in self.options:
            return f"give {self.options[name]} {told}"
        if not self.section:
            return f"give {told} as `{name}`"
        if self.section == "check.tasks":
            return f"set check.tasks=[{{data: {_yaml(str(path))}, {name}: {told}}}]"
        return f"set {self.section}.{name}={told}"


USUAL: Final = Reading()
"""What is read where its owner says nothing."""


def _yaml(text: str) -> str:
    """As it is where YAML reads it so anywhere, else in quotes."""
    plain = SIMPLE.fullmatch(text) and yaml.safe_load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)
