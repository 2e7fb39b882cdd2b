"""The report as Markdown, short enough for a pipeline's step summary."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from glmquant.core.units import size
from glmquant.evaluation.gate import LimitOutcome, Verdict
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.regression import Regression
from glmquant.evaluation.report import AccuracyReport, ModelFacts, Setting
from glmquant.evaluation.statistics import Interval
from glmquant.evaluation.tasks import TaskResult

MARKS = {
    Verdict.PASS: "✅ pass",
    Verdict.FAIL: "❌ fail",
    Verdict.INCONCLUSIVE: "❔ inconclusive",
    None: "➖ not measured",
}


def to_markdown(report: AccuracyReport) -> str:
    """The whole report."""
    parts = [f"# Accuracy check: {MARKS[report.verdict]}", _setting(report.setting), _limits(report.limits)]
    if report.language is not None:
        parts += ["## Text", _language(report.language)]
    if report.texts:
        parts.append(_texts([*report.texts]))
    if report.regression is not None:
        parts += [f"## Against {_plain(report.regression.name)}", _regression(report.regression)]
    for task in report.tasks:
        parts += [f"## Task: {_plain(task.name)}", _task(task), _classes(task)]
    return "\n\n".join(parts) + "\n"


def in_short(report: AccuracyReport, directory: object) -> str:
    """A few plain lines for a pipeline's log: verdict, size, every limit, and where the whole report lies."""
    setting = report.setting
    lines = [
        f"{MARKS[report.verdict]}: {setting.candidate.name}, {size(setting.candidate.num_bytes)}, "
        f"{_share(setting)} of {setting.baseline.name}"
    ]
    for outcome in report.limits:
        measured = "" if outcome.measured is None else f" {with_interval(outcome.measured)},"
        subject = "" if outcome.subject is None else f" of {outcome.subject}"
        bound = f"{outcome.direction} {outcome.bound:g}"
        lines.append(f"{MARKS[outcome.verdict]}: {outcome.metric}{subject}:{measured} {bound}: {outcome.reason}")
    lines.append(f"report: {directory}")
    return "\n".join(" ".join(line.split()) for line in lines)


def with_interval(interval: Interval, digits: str = ".4g") -> str:
    """An estimate and its interval: ``1.012 (1.008 to 1.016)``."""
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:{digits}}"
    return f"{interval.estimate:{digits}} ({interval.low:{digits}} to {interval.high:{digits}})"


def percent(interval: Interval) -> str:
    """A proportion and its interval in percent."""
    low, high = (None if bound is None else 100 * bound for bound in (interval.low, interval.high))
    return with_interval(replace(interval, estimate=100 * interval.estimate, low=low, high=high), ".2f") + " %"


def _setting(setting: Setting) -> str:
    rows = [
        f"- Candidate: {_model(setting.candidate)}, {_share(setting)} of the baseline",
        f"- Baseline: {_model(setting.baseline)}, computed in float32",
    ]
    if setting.recipe is not None:
        rows.append(f"- Recipe: {_plain(setting.recipe)}")
    if setting.accuracy_level is not None:
        rows.append(f"- Accuracy level of the quantized products: {setting.accuracy_level}")
    rows.append(f"- With {', '.join(f'{_plain(v.name)} {_plain(v.version)}' for v in setting.versions)}")
    return "\n".join(rows)


def _model(model: ModelFacts) -> str:
    return f"{_plain(model.name)} ({size(model.num_bytes)})"


def _share(setting: Setting) -> str:
    if setting.baseline.num_bytes == 0:
        return "unknown share"
    return f"{setting.candidate.num_bytes / setting.baseline.num_bytes:.1%}"


def _limits(limits: Sequence[LimitOutcome]) -> str:
    if not limits:
        return "No limits are set."
    rows = []
    for outcome in limits:
        measured = "" if outcome.measured is None else with_interval(outcome.measured)
        name = outcome.metric if outcome.subject is None else f"{outcome.metric} of {outcome.subject}"
        bound = f"{outcome.direction} {outcome.bound:g}"
        rows.append((name, measured, bound, MARKS[outcome.verdict], outcome.reason))
    return _table(("limit", "measured (95 % interval)", "bound", "outcome", "because"), rows)


def _language(metrics: LanguageMetrics) -> str:
    before, after, kl = metrics.baseline, metrics.candidate, metrics.kl
    head = f"{metrics.num_tokens:,} tokens in {len(metrics.windows)} windows of: {', '.join(metrics.texts)}"
    rows = [
        ("perplexity per token", f"{before.per_token:.4f}", f"{after.per_token:.4f}"),
        ("perplexity per byte", f"{before.per_byte:.4f}", f"{after.per_byte:.4f}"),
        ("ratio of perplexities", "1", with_interval(metrics.perplexity_ratio, ".5f")),
        ("KL divergence, mean (nats)", "0", with_interval(kl.mean)),
        (
            "KL divergence: median, 99 %, 99.9 %, max",
            "0",
            f"{kl.median:.3g}, {kl.p99:.3g}, {kl.p999:.3g}, {kl.max:.3g}",
        ),
        ("same token ranked first", "100 %", percent(metrics.top1_agreement)),
        ("probability of the right token, change in points", "0", percent(metrics.correct_probability_change)),
        ("the same, root mean square", "0", f"{100 * metrics.correct_probability_rms:.2f} %"),
    ]
    return _plain(head) + "\n\n" + _table(("", "baseline", "candidate (95 % interval)"), rows)


def _texts(texts: Sequence[LanguageMetrics]) -> str:
    rows = [
        (
            ", ".join(metrics.texts),
            f"{metrics.baseline.per_token:.4f}",
            f"{metrics.candidate.per_token:.4f}",
            with_interval(metrics.perplexity_ratio, ".5f"),
            with_interval(metrics.kl.mean),
        )
        for metrics in texts
    ]
    return _table(("text", "baseline perplexity", "candidate perplexity", "ratio", "mean KL"), rows)


def _regression(measured: Regression) -> str:
    rows = []
    if measured.perplexity_ratio is not None and measured.mean_kl_rise is not None:
        rows += [
            ("perplexity over the earlier model's", with_interval(measured.perplexity_ratio, ".5f")),
            ("rise of the mean KL divergence (nats)", with_interval(measured.mean_kl_rise)),
        ]
    for task in measured.tasks:
        rows += [
            (f"{task.name}: drop of accuracy in points", percent(task.accuracy_drop)),
            (f"{task.name}: drop of macro F1 in points", percent(task.macro_f1_drop)),
        ]
    return _table(("", "measured (95 % interval)"), rows)


def _task(task: TaskResult) -> str:
    rows = [
        ("accuracy", f"{task.baseline.accuracy:.2%}", f"{task.candidate.accuracy:.2%}"),
        ("macro F1", f"{task.baseline.macro_f1:.4f}", f"{task.candidate.macro_f1:.4f}"),
        ("drop of accuracy in points", "", percent(task.accuracy_drop)),
        ("drop of macro F1 in points", "", percent(task.macro_f1_drop)),
        ("right where the other is wrong", str(task.pairs.only_first), str(task.pairs.only_second)),
        ("same answer", "", f"{task.same_answer:.2%}"),
        ("exact McNemar test, p", "", f"{task.mcnemar_p:.3g}"),
    ]
    head = f"{task.num_examples:,} examples; always guessing the commonest label would score {task.majority:.2%}."
    if task.num_truncated:
        head += f" The text of {task.num_truncated:,} was cut to fit the model."
    if task.near_chance:
        head += " **The baseline is not above that: this task says nothing about quantization.**"
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
    return text if text == "---" else _plain(text)


def _plain(text: str) -> str:
    """Text that a name may hold, with nothing in it that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
