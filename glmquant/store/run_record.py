"""``run.json``: which inputs a directory came from, so that the same run given again is known to be done; and when,
where and how fast it was made."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from glmquant.core.files import write_atomically
from glmquant.core.several import Named
from glmquant.core.untrusted import MAX_INDEX_BYTES
from glmquant.errors import CheckpointError
from glmquant.store.circumstances import Circumstances
from glmquant.store.inventory import FileRecord, files_of, inventory, require_hashes
from glmquant.store.manifest import MANIFEST
from glmquant.store.sealed_json import read_sealed, sealed

RUN: Final = "run.json"
FORMAT: Final = 3
"""Format 2, which does not say how it was ``made``, is read as well; so is format 1, which has the sizes of the
bundle's files in place of ``written``."""


@dataclass(frozen=True)
class RunRecord:
    """
    Attributes:
        inputs: hash of all that decides the bundle; of a check alone, the bundle's own.
        check: hash of all that decides the report beside it; of a check alone, the report's own.
        files: bytes of each file of the bundle, by its path within the run's directory; no part of what is compared.
        written: the files of the run's directory that no artifact's own manifest names, manifests included; no part of
            what is compared; a record of format 1 has none.
        made: when, where and how fast; no part of what is compared; None in records of earlier formats.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    inputs: str
    check: str
    files: Named[int] = field(default_factory=dict, compare=False)
    written: Named[FileRecord] = field(default_factory=dict, compare=False)
    made: Circumstances | None = field(default=None, compare=False)


_RECORD: Final = TypeAdapter(RunRecord)


def write_run_record(record: RunRecord, directory: Path, bundle: str | None) -> None:
    """Beside what was made; the sizes of the files in its directory ``bundle``, where there is one, are noted, and the
    hash of every file that has none in an artifact's manifest."""
    inside = [] if bundle is None else sorted((directory / bundle).iterdir())
    sizes = {f"{bundle}/{path.name}": path.stat().st_size for path in inside}
    artifacts = tuple(f"{path.parent.name}/" for path in directory.glob(f"*/{MANIFEST}"))
    named = [n for n in files_of(directory) if n.startswith(artifacts) and not n.endswith(f"/{MANIFEST}")]
    whole = replace(record, files=sizes, written=inventory(directory, but={RUN, *named}))
    text = json.dumps({"format": FORMAT, **_RECORD.dump_python(whole)}, ensure_ascii=False, indent=1) + "\n"
    with write_atomically(directory / RUN) as unfinished:
        unfinished.write_bytes(sealed(text.encode()))


def read_run_record(directory: Path) -> RunRecord | None:
    """What a directory's ``run.json`` says; None without one that this release or an earlier one wrote."""
    try:
        return require_run_record(directory)[0]
    except CheckpointError:
        return None


def require_recorded(stage: Path) -> None:
    """That the files of a directory of the run's are what its record says.

    Raises:
        CheckpointError: names the first that is not; or there is no record yet.
    """
    record, _ = require_run_record(stage.parent)
    files = {name: known for name, known in record.written.items() if name.startswith(f"{stage.name}/")}
    require_hashes(stage.parent, files)


def require_run_record(directory: Path) -> tuple[RunRecord, bool]:
    """The same, and whether the file carries a hash of itself.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = directory / RUN
    values, is_sealed = read_sealed(path, MAX_INDEX_BYTES)
    found = values.pop("format", None)
    try:
        if found in range(1, FORMAT + 1) and not isinstance(found, bool):
            return _RECORD.validate_python(values), is_sealed
    except ValidationError as error:
        raise CheckpointError(f"{RUN} is damaged: {error.errors()[0]['msg']}"[:300], where=path) from error
    raise CheckpointError(f"{RUN} has another format", where=path, expected=f"1 to {FORMAT}")
