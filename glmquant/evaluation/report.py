"""The report: everything a check found out, and its JSON."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from glmquant.errors import CheckError
from glmquant.evaluation.gate import LimitOutcome, Verdict, overall
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.regression import Regression, judge_regression, regression
from glmquant.evaluation.tasks import TaskResult
from glmquant.recipe.schema import RegressionLimits
from glmquant.store.manifest import GroupRecord

SCHEMA = 2


@dataclass(frozen=True)
class ModelFacts:
    """One side of the comparison: a name without directories, and the bytes of its weights and graph on disk."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class LibraryVersion:
    name: str
    version: str


@dataclass(frozen=True)
class Setting:
    """What was compared, and how it was run: the part of a report that the caller knows.

    Attributes:
        accuracy_level: of the candidate's quantized products in ONNX Runtime; None where it has none.
        recipe: the recipe's name or description; None where there is none.
        groups: what quantizing did to each linear group, from the candidate's ``glmquant.json``; empty without one.
    """

    candidate: ModelFacts
    baseline: ModelFacts
    accuracy_level: int | None
    versions: tuple[LibraryVersion, ...]
    recipe: str | None = None
    groups: tuple[GroupRecord, ...] = ()


@dataclass(frozen=True)
class AccuracyReport:
    """What the candidate loses against the baseline, and what the limits make of it.

    Attributes:
        schema: version of this structure.
        language: metrics over all texts together; None where no text was given.
        texts: the same for each text, where there are several.
        limits: every limit's outcome; :func:`glmquant.evaluation.gate.overall` of them is ``verdict``.
        regression: what the candidate loses against an earlier one; None where it was not compared with any.
    """

    schema: int
    verdict: Verdict
    setting: Setting
    limits: tuple[LimitOutcome, ...]
    language: LanguageMetrics | None
    texts: tuple[LanguageMetrics, ...]
    tasks: tuple[TaskResult, ...]
    regression: Regression | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def with_regression(report: AccuracyReport, earlier: AccuracyReport, limits: RegressionLimits) -> AccuracyReport:
    """The report with the comparison against an earlier one, and a verdict on both.

    Raises:
        CheckError: reports that cannot be paired.
    """
    measured = regression(report, earlier)
    outcomes = (*report.limits, *judge_regression(limits, measured))
    return replace(report, limits=outcomes, verdict=overall(outcomes), regression=measured)


def report_from_dict(values: Any, where: object = "report") -> AccuracyReport:
    """The inverse of :meth:`AccuracyReport.to_dict`.

    Raises:
        CheckError: another schema, or values that do not fit it.
    """
    found = values.get("schema") if isinstance(values, dict) else None
    if found != SCHEMA:
        raise CheckError(
            f"an accuracy report of schema {found!r}",
            where=where,
            expected=f"schema {SCHEMA}",
            hint="run the check again",
        )
    known = {field.name for field in fields(AccuracyReport)}
    if unknown := sorted(set(values) - known):
        raise CheckError(f"an accuracy report has no field {unknown[0]!r}", where=where)
    try:
        return TypeAdapter(AccuracyReport).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckError(f"an accuracy report is damaged: {first['msg']}", where=f"{where}, {field}") from None


def report_from_json(text: str, where: object = "report") -> AccuracyReport:
    """The inverse of :meth:`AccuracyReport.to_json`.

    Raises:
        CheckError: not JSON, another schema, or values that do not fit it.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckError(f"an accuracy report is not JSON: {error}", where=where) from None
    return report_from_dict(values, where)


def read_report(path: Path) -> AccuracyReport:
    """A report from its ``report.json``, or from the directory that holds it.

    Raises:
        CheckError: no such file, or no report that this release can read.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        return report_from_json(file.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise CheckError(
            f"cannot read the report: {error.strerror}", where=file, expected="a report.json that a check wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise CheckError(f"the report is not UTF-8: {error}", where=file) from None
