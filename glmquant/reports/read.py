"""Reading ``report.json``, and what happens to one of another schema.

``schema`` is raised whenever a field is renamed or removed or changes its meaning; within a schema, fields are only
added, with a default. So a release reads every earlier report of its schema, and refuses one with a section that it
does not know, which only a later release can have written.

Schema 2 is read: there, a check without limits had passed, which is ``not judged`` now. Other schemas are refused, not
migrated: the bundle can be checked again, and what schema 1 lacks (intervals of perplexity and macro F1, each example's
predictions) cannot be computed from the report.
"""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import TypeAdapter, ValidationError

from glmquant.core.budget import require_few_values
from glmquant.core.near import did_you_mean
from glmquant.core.untrusted import parse_text, read_bytes
from glmquant.errors import CheckError, CheckpointError
from glmquant.evaluation.gate import overall
from glmquant.evaluation.results import SCHEMA, AccuracyReport
from glmquant.store.circumstances import Circumstances
from glmquant.store.run_record import read_run_record

READ: Final = (2, SCHEMA)
REPORT: Final = "report.json"
LARGEST_REPORT: Final = 64 << 20
"""With the answers to a few hundred thousand examples."""

LARGEST_NUMBER: Final = 1e100
"""Whose square is a float still; the perplexity of a model that says nothing sensible may be large."""

OTHER_FORMS: Final = ("report.md", "report.html", "junit.xml")
AGAIN = "run check again with this release"


def read_report(path: Path) -> AccuracyReport:
    """A report from its ``report.json``, from a file that was written beside it, or from the directory that holds it,
    a run's too.

    Raises:
        CheckError: no such file, or no report that this release can read.
    """
    file = _file(path)
    try:
        return report_from_json(parse_text(read_bytes(file, LARGEST_REPORT), file), file)
    except CheckpointError as error:
        raise CheckError(
            f"cannot read the report: {error.what.removeprefix('cannot read: ')}",
            where=file,
            expected="a report.json that `check` wrote",
            hint=None if file.exists() else did_you_mean(file),
        ) from error


def _file(path: Path) -> Path:
    if not path.is_dir():
        beside = path.with_name(REPORT)
        return beside if path.name in OTHER_FORMS and beside.is_file() else path
    of_run = path / "report" / REPORT
    return of_run if of_run.is_file() and not (path / REPORT).exists() else path / REPORT


def circumstances_of(path: Path) -> Circumstances | None:
    """When, where and how fast the report that :func:`read_report` reads there was made: as ``run.json`` beside it, or
    beside its directory, says it; None without one."""
    directory = _file(path).parent
    records = (read_run_record(each) for each in (directory, directory.resolve().parent))
    return next((record.made for record in records if record is not None), None)


def report_from_dict(values: Any, where: object = "report") -> AccuracyReport:
    """The inverse of :meth:`AccuracyReport.to_dict`.

    Raises:
        CheckError: another schema, or values that do not fit it.
    """
    found = values.get("schema") if isinstance(values, dict) else None
    if found not in READ or isinstance(found, bool | float):
        raise _other_schema(values, found, where)
    known = {field.name for field in fields(AccuracyReport)}
    if unknown := sorted(set(values) - known):
        raise CheckError(
            f"an accuracy report has no field {unknown[0]!r} in this release",
            where=where,
            expected=", ".join(sorted(known)),
            hint=f"upgrade glmquant{_writer(values)}, or {AGAIN}",
        )
    try:
        report = TypeAdapter(AccuracyReport).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckError(
            f"the accuracy report is damaged: {first['msg']}", where=f"{where}, {field}", hint=AGAIN
        ) from None
    return report if found == SCHEMA else replace(report, schema=SCHEMA, verdict=overall(report.limits))


def report_from_json(text: str, where: object = "report") -> AccuracyReport:
    """The inverse of :meth:`AccuracyReport.to_json`.

    Raises:
        CheckError: not JSON, another schema, or values that do not fit it.
    """
    try:
        require_few_values(text.encode("utf-8", "surrogatepass"), where)
        values = json.loads(text, parse_constant=_no_number, parse_float=_number, parse_int=_number)
    except (ValueError, RecursionError) as error:
        why = error.what if isinstance(error, CheckpointError) else error
        raise CheckError(f"the accuracy report is not JSON: {why}", where=where, hint=AGAIN) from None
    return report_from_dict(values, where)


def _number(text: str) -> int | float:
    """A number that nothing computed from it, and nothing drawn, could carry beyond what a float holds."""
    number = float(text)
    if not abs(number) <= LARGEST_NUMBER:
        _no_number(text)
    return number if any(mark in text for mark in ".eE") else int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no number of an accuracy report")


def _other_schema(values: Any, found: Any, where: object) -> CheckError:
    newer = isinstance(found, int) and found > SCHEMA
    return CheckError(
        f"the accuracy report has schema {found!r:.40}",
        where=where,
        expected=f"schema {' or '.join(map(str, READ))}",
        hint=f"upgrade glmquant{_writer(values)}, or {AGAIN}" if newer else AGAIN,
    )


def _writer(values: Any) -> str:
    """The release that wrote the report, as far as it says so."""
    try:
        versions = {str(each["name"]): str(each["version"]) for each in values["setting"]["versions"]}
    except (TypeError, KeyError):
        return ""
    return f" ({versions['glmquant']:.40} wrote it)" if "glmquant" in versions else ""
