"""Rows made by their programs, each once for everything that decides it."""

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import glmquant
from benchmarks.accuracy.environments import Environments, versions
from benchmarks.accuracy.inputs import Inputs
from benchmarks.accuracy.made import Made, kept, make, sha256_of
from benchmarks.accuracy.rows import PROGRAMS, Row
from glmquant.recipe.load import load_recipe

AFTER_QUANTIZING = ("assets", "cli", "evaluation", "onnx_export", "pipeline", "reports", "runtime", "train")


class Maker:
    """Makes rows, or takes what was made before.

    Args:
        wanted: parts of the names of rows that may be made; all where there are none.
        kept_only: make nothing.
        force: make wanted rows again.

    Attributes:
        versions: of the packages behind each program that was met.
    """

    def __init__(self, environments: Path, wanted: Sequence[str], *, kept_only: bool, force: bool) -> None:
        self._environments, self._wanted = Environments(environments), wanted
        self._kept, self._force = kept_only, force
        self._made_now: set[Path] = set()
        self.versions: dict[str, dict[str, str]] = {}

    def made(self, row: Row, inputs: Inputs) -> Made | None:
        """What the row's program wrote; None where it is not there yet, and not asked for.

        Raises:
            ProgramError: it failed.
        """
        place = inputs.path("rows") / file_name(row)
        program = PROGRAMS[row.program]
        chosen = not self._kept and (not self._wanted or any(part in row.name for part in self._wanted))
        if not chosen and not self._environments.ready(program.environment):
            return None
        python = self._environments.python(program.environment)
        self.versions[row.program] = versions(python, program.packages)
        identity = {
            "model": inputs.checkpoint.fingerprint,
            "tokens": inputs.tokens_sha256,
            "program": row.program,
            "versions": self.versions[row.program],
            "script": sha256_of([program.script]),
            "options": dict(row.options),
        }
        if row.is_ours:
            identity |= {"recipe": _recipe(row), "code": code_sha256()}
        made = None if self._force and chosen and place not in self._made_now else kept(place, identity)
        if made is not None or not chosen:
            return made
        self._made_now.add(place)

        def command(out: Path) -> list[str]:
            files = (inputs.path(program.source), inputs.path(program.calibration))
            return [python, str(program.script), *map(str, files), json.dumps(dict(row.options)), str(out)]

        print(f"making: {row.name}", file=sys.stderr, flush=True)
        return make(place, identity, command, program.compiling)


def file_name(row: Row) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row.name.lower())


@cache
def code_sha256() -> str:
    """Of all of glmquant that decides what quantizing writes."""
    package = Path(glmquant.__file__).parent
    files = sorted(package.rglob("*.py"))
    return sha256_of(file for file in files if file.relative_to(package).parts[0] not in AFTER_QUANTIZING)


def _recipe(row: Row) -> dict[str, Any]:
    return load_recipe(row.options["recipe"], row.options["overrides"]).identity()
