"""The result of an accuracy check, as plain values."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from glmquant.core.several import Named, Several
from glmquant.core.units import size
from glmquant.evaluation.gate import LimitOutcome, Verdict
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.routing_metrics import RoutingMetrics
from glmquant.evaluation.statistics import Interval
from glmquant.evaluation.tasks import TaskResult
from glmquant.inert import inert
from glmquant.store.manifest import GroupRecord

SCHEMA: Final = 3
"""Of ``report.json``; see :mod:`glmquant.reports.read` for what another gets."""

NOTEBOOK = """\
<div>
<p><b>{{ report.setting.candidate.name }}: {{ report.verdict.value }}</b>,
{{ size(report.setting.candidate.num_bytes) }}
(baseline {{ report.setting.baseline.name }}, {{ size(report.setting.baseline.num_bytes) }})</p>
{%- if report.limits %}
<table>
<thead><tr><th>limit</th><th>measured (95 % interval)</th><th>bound</th><th>outcome</th></tr></thead>
<tbody>
{%- for each in report.limits %}
<tr><td>{{ each.name }}</td><td>{{ each.measured or "" }}</td><td>{{ each.bound_in_words }}</td>\
<td>{{ each.verdict.value if each.verdict else "not measured" }}: {{ each.reason }}</td></tr>
{%- endfor %}
</tbody>
</table>
{%- else %}
<p>No limits are set: nothing is judged.</p>
{%- endif %}
</div>
"""


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
class Subject:
    """What the candidate was made from, and how, as far as its ``glmquant.json`` and the recipe at hand say it.

    Attributes:
        source: the model, with an adapter that was merged into it.
        revision: the commit of its repository; None where that is not known.
        fingerprint: of its weights (:attr:`glmquant.store.checkpoint.Checkpoint.fingerprint`).
        recipe: the packaged recipe's name; None for one's own.
        changes: ``key=value`` for each key that is another than there (:func:`glmquant.recipe.changes.named`).
        calibration: sha256 of the calibration tokens; None where none were used.
        files: sha256 of the candidate's graph and weights, by name.
    """

    source: str
    revision: str | None
    fingerprint: str
    recipe: str | None
    changes: Several[str]
    calibration: str | None
    files: Named[str]


@dataclass(frozen=True)
class Setting:
    """What was compared, and how: the part of a report that the caller knows.

    Attributes:
        accuracy_level: ``accuracy_level`` of the candidate's MatMulNBits operators; None where it has none.
        recipe: the recipe's name or description; None where there is none.
        groups: what quantization did to each linear group, from the candidate's ``glmquant.json``; empty without one.
        subject: what the candidate was made from; None without a ``glmquant.json``, and in reports of earlier releases.
    """

    candidate: ModelFacts
    baseline: ModelFacts
    accuracy_level: int | None
    versions: Several[LibraryVersion]
    recipe: str | None = None
    groups: Several[GroupRecord] = field(default=(), repr=False)
    subject: Subject | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """What the report is about: the model and the recipe where they are known, else the candidate's directory."""
        if self.subject is None:
            return self.candidate.name
        how = self.subject.recipe or (self.recipe or "").rstrip(".") or self.candidate.name
        return f"{self.subject.source}, {how}{' with changes' if self.subject.recipe and self.subject.changes else ''}"

    @property
    def size_ratio(self) -> float | None:
        """The candidate's bytes over the baseline's; None where those are not known."""
        return self.candidate.num_bytes / self.baseline.num_bytes if self.baseline.num_bytes else None


@dataclass(frozen=True)
class TextCoverage:
    """How much of a text was read.

    Attributes:
        name: of its file, without directories.
        num_tokens: that were read, of ``of_tokens``.
        calibrated_on: the candidate was calibrated on this very text, so that its losses look smaller than they are.
        sha256: of the tokens that were read, in their windows; None in reports of earlier releases.
    """

    name: str
    num_tokens: int
    of_tokens: int
    calibrated_on: bool
    sha256: str | None = None


@dataclass(frozen=True)
class TaskRegression:
    """The earlier candidate's accuracy and macro F1 minus the new one's."""

    name: str
    accuracy_drop: Interval
    macro_f1_drop: Interval


@dataclass(frozen=True)
class Regression:
    """What the new candidate loses against an earlier one.

    Attributes:
        name, num_bytes: the earlier candidate's.
        perplexity_ratio: the new perplexity over the earlier one, paired by window; None without text.
        mean_kl_rise: mean KL divergence from the baseline, new minus earlier; None without text.
    """

    name: str
    num_bytes: int
    perplexity_ratio: Interval | None
    mean_kl_rise: Interval | None
    tasks: Several[TaskRegression]


@dataclass(frozen=True)
class PromptAnswers:
    """What both models answer to a prompt, greedily.

    Attributes:
        same_tokens: at the start of both answers.
        baseline_tokens: of the baseline's answer.
        is_whole: it came to its end, or to ``check.answer_tokens``; else the two differed too often to follow further.
    """

    prompt: str
    baseline: str
    candidate: str
    same_tokens: int
    baseline_tokens: int
    is_whole: bool = True


@dataclass(frozen=True)
class AccuracyReport:
    """What the candidate loses against the baseline, and what the limits make of it.

    Attributes:
        schema: version of this structure.
        language: metrics over all texts together; None where no text was given.
        texts: the same for each text, where there are several.
        limits: every limit's outcome; :func:`glmquant.evaluation.gate.overall` of them is ``verdict``.
        regression: what the candidate loses against an earlier one; None where it was not compared with any.
        coverage: of each text, in their order; empty in reports of earlier releases.
        routing: of a model with routed experts, how far both meet the same ones; None where it was not measured.
        answers: of both models to ``check.prompts``.
        notes: what makes the numbers say something else than they seem to, each a sentence without its stop.
    """

    schema: int
    verdict: Verdict
    setting: Setting
    limits: Several[LimitOutcome]
    language: LanguageMetrics | None
    texts: Several[LanguageMetrics]
    tasks: Several[TaskResult]
    regression: Regression | None = None
    coverage: Several[TextCoverage] = ()
    notes: Several[str] = ()
    routing: RoutingMetrics | None = None
    answers: Several[PromptAnswers] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`glmquant.reports.read.report_from_dict` is the inverse."""
        return asdict(self)

    def to_json(self) -> str:
        """The content of ``report.json``."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def __repr__(self) -> str:
        setting = self.setting
        parts = [f"{setting.candidate.name} ({size(setting.candidate.num_bytes)}) against {setting.baseline.name}"]
        if self.language is not None:
            parts.append(f"perplexity ratio {self.language.perplexity_ratio}")
        parts += [f"{task.name}: accuracy drop {task.accuracy_drop}" for task in self.tasks[:3]]
        passed = sum(outcome.verdict is Verdict.PASS for outcome in self.limits)
        parts.append(f"{passed} of {len(self.limits)} limits met")
        return f"<AccuracyReport {self.verdict.value}: {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """For a notebook: verdict, sizes, and every limit with its interval."""
        from jinja2 import Environment

        return inert(Environment(autoescape=True).from_string(NOTEBOOK).render(report=self, size=size))
