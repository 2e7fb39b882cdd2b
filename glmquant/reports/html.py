"""The report as one HTML page without external resources: style, plots and data are all in it."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmquant.core.units import size
from glmquant.evaluation.results import AccuracyReport
from glmquant.inert import inert
from glmquant.reports import plots
from glmquant.reports.facts import made_facts, subject_facts, tokens_a_second
from glmquant.reports.words import (
    HOW_TO_SET_LIMITS,
    WORDS,
    coverage_notes,
    kl_percentiles,
    percent,
    points,
    rounded,
    routing_note,
    same_words,
    sentences,
    size_ratio,
    task_notes,
)
from glmquant.store.circumstances import Circumstances

TEMPLATE = "report.html.j2"
SHOWN_CHARACTERS = 160


def to_html(
    report: AccuracyReport,
    others: Sequence[AccuracyReport] = (),
    comparison: Sequence[Sequence[str]] = (),
    made: Circumstances | None = None,
) -> str:
    """The page.

    Args:
        others: reports of other quantizations of the same baseline, plotted with this one: quality against size.
        comparison: a table of all of them, its head first.
        made: when, where and how fast; None where that is not known.
    """
    page = _environment().get_template(TEMPLATE)
    shown = {
        "report": report,
        "others": list(others),
        "comparison": list(comparison),
        "tiles": _tiles(report, made),
        "about": subject_facts(report),
        "made": None if made is None else made_facts(made),
    }
    return inert(page.render(shown).lstrip())


def _environment() -> Environment:
    """Every value is escaped, whatever its file's name ends with; :mod:`glmquant.reports.svg` returns markup."""
    environment = Environment(
        loader=PackageLoader("glmquant.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"end": _end, "share": _share, "visible": _visible}
    environment.globals |= {
        "HOW_TO_SET_LIMITS": HOW_TO_SET_LIMITS,
        "WORDS": WORDS,
        "coverage_notes": coverage_notes,
        "kl_percentiles": kl_percentiles,
        "percent": percent,
        "plots": plots,
        "points": points,
        "rounded": rounded,
        "same_words": same_words,
        "routing_note": routing_note,
        "sentences": sentences,
        "task_notes": task_notes,
    }
    return environment


def _tiles(report: AccuracyReport, made: Circumstances | None) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, and a line below."""
    candidate, baseline = report.setting.candidate, report.setting.baseline
    below = "" if report.setting.size_ratio is None else f"{size_ratio(report.setting)} of {size(baseline.num_bytes)}"
    tiles = [("size", size(candidate.num_bytes), below)]
    if (language := report.language) is not None:
        perplexities = f"{language.baseline.per_token:.4g} → {language.candidate.per_token:.4g}"
        mean, p99 = f"{language.kl.mean.estimate:.3g}", f"99 % of tokens below {language.kl.p99:.2g} nats"
        tiles += [
            ("perplexity", _change(language.perplexity_ratio.estimate), perplexities),
            ("mean KL divergence", mean, p99),
            ("top-1 agreement", _share(language.top1_agreement.estimate), f"of {language.num_tokens:,} tokens"),
        ]
    for task in report.tasks:
        sides = f"{_share(task.baseline.accuracy)} → {_share(task.candidate.accuracy)}"
        lost = round(-100 * task.accuracy_drop.estimate, 1) + 0.0  # no -0.0
        tiles.append((f"accuracy, {task.name}", f"{lost:+.1f} points" if lost else "±0 points", sides))
    if made is not None and made.speed is not None:
        memory = f"in {size(made.speed.peak_bytes)} of memory on this machine"
        tiles.append(("tokens a second", tokens_a_second(made.speed), memory))
    return tiles


def _change(ratio: float) -> str:
    """``+0.52 %``; from twice as much on ``×2.35``."""
    return f"×{ratio:.3g}" if ratio >= 2 else f"{100 * (ratio - 1) + 0.0:+.2f} %"


def _share(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _visible(token: str) -> str:
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return shown if shown.strip() else shown.replace(" ", "␣") or "(empty)"


def _end(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else "…" + text[-SHOWN_CHARACTERS:]
