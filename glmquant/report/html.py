"""The report as one HTML page that needs no network: style, plots and data are all inside it."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from glmquant.core.units import size
from glmquant.evaluation.gate import LimitOutcome
from glmquant.evaluation.metrics import Guess, LanguageMetrics, WorstToken
from glmquant.evaluation.report import AccuracyReport
from glmquant.evaluation.tasks import ChangedAnswer, TaskResult
from glmquant.report import plots
from glmquant.report.markdown import percent, with_interval
from glmquant.report.svg import element

WORDS = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}


def to_html(report: AccuracyReport, others: Sequence[AccuracyReport] = ()) -> str:
    """The page.

    Args:
        others: reports of other quantizations of the same baseline, drawn beside this one: quality against size.
    """
    name = report.setting.candidate.name
    sections = [_head(report), _tiles(report), _limits(report.limits)]
    if report.language is not None:
        if others:
            sections.append(_section("Quality against size", "", plots.quality_against_size([report, *others])))
        sections.append(_text(report.language))
    if report.setting.groups:
        note = "Numbers are bits; the darker, the larger the relative error of the group (logarithmic scale)."
        sections.append(_section("Layers", note, plots.layer_map(report.setting.groups)))
    sections += [_task(task) for task in report.tasks]
    if report.language is not None and report.language.worst:
        sections.append(_worst(report.language.worst))
    sections.append(_foot(report))
    style = files("glmquant.report").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: accuracy {WORDS[report.verdict]}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(sections)}</main></body></html>\n'


def _head(report: AccuracyReport) -> str:
    setting = report.setting
    badge = element("span", WORDS[report.verdict], class_=f"badge {report.verdict}")
    recipe = "" if setting.recipe is None else element("p", escape(setting.recipe), class_="note")
    return element(
        "header",
        element("h1", f"{escape(setting.candidate.name)} {badge}"),
        element(
            "p",
            f"Accuracy check against {escape(setting.baseline.name)}, the float checkpoint computed in float32.",
            class_="lead",
        ),
        recipe,
    )


def _tiles(report: AccuracyReport) -> str:
    candidate, baseline = report.setting.candidate, report.setting.baseline
    share = (
        f"{candidate.num_bytes / baseline.num_bytes:.1%} of {size(baseline.num_bytes)}" if baseline.num_bytes else ""
    )
    tiles = [("size", size(candidate.num_bytes), share)]
    if (language := report.language) is not None:
        change = 100 * (language.perplexity_ratio.estimate - 1)
        before, after = language.baseline.per_token, language.candidate.per_token
        tiles += [
            ("perplexity", f"{change:+.2f} %", f"{before:.4g} → {after:.4g}"),
            (
                "mean KL divergence",
                f"{language.kl.mean.estimate:.3g}",
                f"99 % of tokens below {language.kl.p99:.2g} nats",
            ),
            ("same first token", f"{language.top1_agreement.estimate:.1%}", f"of {language.num_tokens:,} tokens"),
        ]
    for task in report.tasks:
        change = -100 * task.accuracy_drop.estimate
        sides = f"{task.baseline.accuracy:.1%} → {task.candidate.accuracy:.1%}"
        tiles.append((f"accuracy, {task.name}", f"{change:+.1f} points", sides))
    cells = (
        element("div", element("span", escape(label)), element("b", escape(value)), element("small", escape(below)))
        for label, value, below in tiles
    )
    return element("div", *cells, class_="tiles")


def _limits(limits: Sequence[LimitOutcome]) -> str:
    if not limits:
        return _section("Limits", "No limits are set.")
    rows = []
    for outcome in limits:
        about = "" if outcome.subject is None else element("small", f" of {escape(outcome.subject)}")
        measured = "" if outcome.measured is None else with_interval(outcome.measured)
        word = "not measured" if outcome.verdict is None else WORDS[outcome.verdict]
        kind = plots.verdict_class(outcome.verdict)
        cells = (
            element("b", escape(outcome.metric)) + about,
            plots.limit_strip(outcome),
            escape(measured),
            f"{outcome.direction} {outcome.bound:g}",
            element("span", word, class_=f"badge small {kind}") + element("small", " " + escape(outcome.reason)),
        )
        rows.append(cells)
    note = "Bar: 95 % confidence interval; dot: estimate; line: limit, with the side it forbids shaded."
    return _section("Limits", note, _table(("limit", "", "measured", "bound", "outcome"), rows))


def _text(metrics: LanguageMetrics) -> str:
    kl = metrics.kl
    rows = [
        ("perplexity per token", f"{metrics.baseline.per_token:.4f}", f"{metrics.candidate.per_token:.4f}"),
        ("perplexity per byte", f"{metrics.baseline.per_byte:.4f}", f"{metrics.candidate.per_byte:.4f}"),
        ("ratio of perplexities", "1", with_interval(metrics.perplexity_ratio, ".5f")),
        ("mean KL divergence (nats)", "0", with_interval(kl.mean)),
        ("KL: median, 99 %, 99.9 %, max", "0", f"{kl.median:.3g}, {kl.p99:.3g}, {kl.p999:.3g}, {kl.max:.3g}"),
        ("same token ranked first", "100 %", percent(metrics.top1_agreement)),
        ("probability of the right token, points", "0", percent(metrics.correct_probability_change)),
    ]
    note = f"{metrics.num_tokens:,} tokens in {len(metrics.windows)} windows of {', '.join(metrics.texts)}."
    table = _table(("", "baseline", "candidate (95 % interval)"), [tuple(map(escape, row)) for row in rows])
    return _section("Along the text", note, plots.divergence_along_text(metrics), table)


def _task(task: TaskResult) -> str:
    note = f"{task.num_examples:,} examples; always guessing the commonest label would score {task.majority:.1%}."
    if task.num_truncated:
        note += f" The text of {task.num_truncated:,} was cut to fit the model."
    if task.near_chance:
        note += " The baseline is not above that: this task says nothing about quantization."
    rows = [
        ("accuracy", f"{task.baseline.accuracy:.2%}", f"{task.candidate.accuracy:.2%}"),
        ("drop of accuracy, points", "", percent(task.accuracy_drop)),
        ("macro F1", f"{task.baseline.macro_f1:.4f}", f"{task.candidate.macro_f1:.4f}"),
        ("drop of macro F1, points", "", percent(task.macro_f1_drop)),
        ("right where the other is wrong", str(task.pairs.only_first), str(task.pairs.only_second)),
        ("exact McNemar test, p", "", f"{task.mcnemar_p:.3g}"),
    ]
    matrices = element(
        "div",
        plots.confusion(task.baseline, "baseline"),
        plots.confusion(task.candidate, "candidate"),
        class_="side-by-side",
    )
    table = _table(("", "baseline", "candidate (95 % interval)"), [tuple(map(escape, row)) for row in rows])
    return _section(f"Task: {task.name}", note, matrices, table, _changed(task.changed))


def _changed(changed: Sequence[ChangedAnswer]) -> str:
    if not changed:
        return ""
    rows = [
        (
            escape(each.text),
            escape(each.truth),
            _answer(each.baseline, each.baseline == each.truth),
            _answer(each.candidate, each.candidate == each.truth),
        )
        for each in changed
    ]
    return element("h3", "Answers that changed, the worst first") + _table(
        ("text", "true label", "baseline", "candidate"), rows, "wide-first"
    )


def _answer(label: str, is_right: bool) -> str:
    return element("span", escape(label), class_=f"badge small {'pass' if is_right else 'fail'}")


def _worst(tokens: Sequence[WorstToken]) -> str:
    rows = [
        (
            f"{escape(_end(token.before))}{element('mark', _visible(token.actual))}",
            _guesses(token.baseline, token.baseline_probability),
            _guesses(token.candidate, token.candidate_probability),
            f"{token.kl:.3g}",
        )
        for token in tokens
    ]
    note = "At most one token a window; the marked token is what follows in the text."
    table = _table(("text", "baseline expects", "candidate expects", "KL"), rows, "wide-first")
    return _section("Where the models differ most", note, table)


def _guesses(guesses: Sequence[Guess], actual: float) -> str:
    bars = (
        element(
            "div",
            element("i", style=f"width:{guess.probability:.1%}"),
            element("code", _visible(guess.token)),
            element("small", f"{guess.probability:.1%}"),
            class_="guess",
        )
        for guess in guesses
    )
    return "".join(bars) + element("small", f"marked token: {actual:.2%}")


def _visible(token: str) -> str:
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return escape(shown if shown.strip() else shown.replace(" ", "␣") or "(empty)")


def _end(text: str) -> str:
    return text if len(text) <= 160 else "…" + text[-160:]


def _foot(report: AccuracyReport) -> str:
    versions = ", ".join(f"{each.name} {each.version}" for each in report.setting.versions)
    level = report.setting.accuracy_level
    with_level = "" if level is None else f"; quantized products at accuracy level {level}"
    return element("footer", escape(f"{versions}{with_level}; report schema {report.schema}"))


def _section(heading: str, note: str, *content: str) -> str:
    below = element("p", escape(note), class_="note") if note else ""
    return element("section", element("h2", escape(heading)), below, *content)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "plain") -> str:
    top = element("tr", *(element("th", escape(cell)) for cell in head))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element(
        "div", element("table", element("thead", top), element("tbody", *body), class_=class_), class_="scroll"
    )
