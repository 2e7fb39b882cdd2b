"""``run.json``: which inputs a run's directory came from, so that the same run given again is known to be done."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from glmquant.core.files import write_json

RUN: Final = "run.json"
FORMAT: Final = 1
LARGEST: Final = 1 << 16


@dataclass(frozen=True)
class RunRecord:
    """
    Attributes:
        inputs: hash of all that decides the bundle.
        check: hash of all that decides the report beside it.
        files: bytes of each file of the bundle, by its path within the run's directory; no part of what is compared.
    """

    inputs: str
    check: str
    files: dict[str, int] = field(default_factory=dict, compare=False)


def write_run_record(record: RunRecord, directory: Path, bundle: str) -> None:
    """Beside what the run made; the sizes of the files in its directory ``bundle`` are noted."""
    written = {f"{bundle}/{path.name}": path.stat().st_size for path in sorted((directory / bundle).iterdir())}
    write_json(directory / RUN, {"format": FORMAT, **asdict(replace(record, files=written))})


def read_run_record(directory: Path) -> RunRecord | None:
    """What a directory's ``run.json`` says; None without one that this release wrote."""
    path = directory / RUN
    if not path.is_file() or path.stat().st_size > LARGEST:
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    known = {"inputs", "check", "files"}
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or set(values) != known:
        return None
    if not isinstance(values["files"], dict):
        return None
    return RunRecord(str(values["inputs"]), str(values["check"]), values["files"])
