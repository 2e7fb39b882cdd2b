"""The report as Markdown, short enough for the step summary of a CI job."""

from collections.abc import Iterable, Sequence

from glmquant.evaluation.gate import LimitOutcome
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.results import AccuracyReport, PromptAnswers, Regression
from glmquant.evaluation.routing_metrics import RoutingMetrics
from glmquant.evaluation.tasks import TaskResult
from glmquant.inert import inert_markdown
from glmquant.reports.facts import subject_facts
from glmquant.reports.words import (
    HOW_TO_SET_LIMITS,
    MARKS,
    busiest,
    coverage_notes,
    kl_percentiles,
    percent,
    points,
    rounded,
    routing_note,
    same_words,
    sentences,
    task_notes,
)


def to_markdown(report: AccuracyReport) -> str:
    """The whole report."""
    parts = [f"# Accuracy check: {MARKS[report.verdict]}", _setting(report)]
    parts += [*map(inert_markdown, sentences(report.notes)), _limits(report.limits)]
    if report.language is not None:
        parts += ["## Text", _language(report.language), *map(inert_markdown, coverage_notes(report.coverage))]
    if report.texts:
        parts.append(_texts([*report.texts]))
    if report.routing is not None:
        parts += ["## Routed experts", _routing(report.routing)]
    if report.regression is not None:
        parts += [f"## Against {inert_markdown(report.regression.name)}", _regression(report.regression)]
    for task in report.tasks:
        parts += [f"## Task: {inert_markdown(task.name)}", _task(task), _classes(task)]
    if report.answers:
        parts += ["## Answers", _answers(report.answers)]
    return "\n\n".join(parts) + "\n"


def _answers(answers: Sequence[PromptAnswers]) -> str:
    rows = [(each.prompt, each.baseline, each.candidate, same_words(each)) for each in answers]
    return _table(("prompt", "float", "quantized", ""), rows)


def _setting(report: AccuracyReport) -> str:
    return "\n".join(
        f"- {name[:1].upper()}{name[1:]}: {inert_markdown(value)}" for name, value in subject_facts(report)
    )


def _limits(limits: Sequence[LimitOutcome]) -> str:
    if not limits:
        return HOW_TO_SET_LIMITS
    rows = []
    for outcome in limits:
        measured = "" if outcome.measured is None else rounded(outcome.measured)
        rows.append((outcome.name, measured, outcome.bound_in_words, MARKS[outcome.verdict], outcome.reason))
    return _table(("limit", "measured (95 % interval)", "bound", "outcome", "reason"), rows)


def _language(metrics: LanguageMetrics) -> str:
    before, after, kl = metrics.baseline, metrics.candidate, metrics.kl
    head = f"{metrics.num_tokens:,} tokens in {len(metrics.windows)} windows of: {', '.join(metrics.texts)}"
    rows = [
        ("perplexity per token", f"{before.per_token:.4f}", f"{after.per_token:.4f}"),
        ("perplexity per byte", f"{before.per_byte:.4f}", f"{after.per_byte:.4f}"),
        ("perplexity ratio", "1", rounded(metrics.perplexity_ratio)),
        ("KL divergence, mean (nats)", "0", rounded(kl.mean)),
        ("KL divergence: median, 99 %, 99.9 %, max", "0", kl_percentiles(kl)),
        ("top-1 agreement", "100 %", percent(metrics.top1_agreement)),
        ("probability of the correct token, change", "0", points(metrics.correct_probability_change)),
        ("the same, root mean square", "0", f"{100 * metrics.correct_probability_rms:.2f} percentage points"),
    ]
    return inert_markdown(head) + "\n\n" + _table(("", "baseline", "candidate (95 % interval)"), rows)


def _texts(texts: Sequence[LanguageMetrics]) -> str:
    rows = [
        (
            ", ".join(metrics.texts),
            f"{metrics.baseline.per_token:.4f}",
            f"{metrics.candidate.per_token:.4f}",
            rounded(metrics.perplexity_ratio),
            rounded(metrics.kl.mean),
        )
        for metrics in texts
    ]
    return _table(("text", "baseline perplexity", "candidate perplexity", "ratio", "mean KL"), rows)


def _routing(metrics: RoutingMetrics) -> str:
    rows = [
        (str(layer.layer), f"{layer.differing:.2%}", busiest(layer.baseline_load), busiest(layer.candidate_load))
        for layer in metrics.layers
    ]
    return routing_note(metrics) + "\n\n" + _table(("layer", "other experts", "busiest, baseline", "candidate"), rows)


def _regression(measured: Regression) -> str:
    rows = []
    if measured.perplexity_ratio is not None and measured.mean_kl_rise is not None:
        rows += [
            ("perplexity ratio to the earlier model", rounded(measured.perplexity_ratio)),
            ("increase of the mean KL divergence (nats)", rounded(measured.mean_kl_rise)),
        ]
    for task in measured.tasks:
        rows += [
            (f"{task.name}: accuracy drop", points(task.accuracy_drop)),
            (f"{task.name}: macro F1 drop", points(task.macro_f1_drop)),
        ]
    return _table(("", "measured (95 % interval)"), rows)


def _task(task: TaskResult) -> str:
    rows = [
        ("accuracy", f"{task.baseline.accuracy:.2%}", f"{task.candidate.accuracy:.2%}"),
        ("macro F1", f"{task.baseline.macro_f1:.4f}", f"{task.candidate.macro_f1:.4f}"),
        ("accuracy drop", "", points(task.accuracy_drop)),
        ("macro F1 drop", "", points(task.macro_f1_drop)),
        ("correct where the other is wrong", str(task.pairs.only_first), str(task.pairs.only_second)),
        ("prediction agreement", "", f"{task.same_answer:.2%}"),
        ("exact McNemar test, p", "", f"{task.mcnemar_p:.3g}"),
    ]
    head = " ".join(task_notes(task))
    return head + "\n\n" + _table(("", "baseline", "candidate (95 % interval)"), rows)


def _classes(task: TaskResult) -> str:
    rows = [
        (
            before.label,
            str(before.support),
            *(f"{x:.4f}" for x in (before.precision, before.recall, before.f1)),
            *(f"{x:.4f}" for x in (after.precision, after.recall, after.f1)),
        )
        for before, after in zip(task.baseline.classes, task.candidate.classes, strict=True)
    ]
    columns = [f"{name}, {side}" for side in ("baseline", "candidate") for name in ("precision", "recall", "F1")]
    return _table(("label", "examples", *columns), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(x) for x in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" else inert_markdown(text)
