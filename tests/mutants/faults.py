"""Faults that someone thought of, each against a promise."""

from pathlib import Path
from typing import Final

import yaml

from tests.mutants.operators import Mutant

FILE: Final = Path(__file__).with_name("faults.yaml")


def deliberate() -> list[Mutant]:
    """All of ``faults.yaml``, whose ``before`` stands once in its file.

    Raises:
        ValueError: the code that one changes is not there, or not once.
    """
    return [_fault(each["path"], each["before"], each["after"]) for each in yaml.safe_load(FILE.read_text())]


def _fault(path: str, before: str, after: str) -> Mutant:
    source = Path(path).read_text(encoding="utf-8")
    if source.count(before) != 1:
        raise ValueError(f"{path} holds {source.count(before)} times: {before}")
    line = source[: source.index(before)].count("\n") + 1
    return Mutant(path, line, line, "", "deliberate", before, after, source.replace(before, after))
