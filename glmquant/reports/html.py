"""The report as one HTML page without external resources: style, plots and data are all in it."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmquant.core.units import size
from glmquant.evaluation.results import AccuracyReport
from glmquant.inert import inert
from glmquant.reports import plots
from glmquant.reports.words import (
    HOW_TO_SET_LIMITS,
    WORDS,
    coverage_notes,
    kl_percentiles,
    percent,
    points,
    rounded,
    routing_note,
    sentences,
    size_ratio,
    task_notes,
)

TEMPLATE = "report.html.j2"
SHOWN_CHARACTERS = 160


def to_html(
    report: AccuracyReport, others: Sequence[AccuracyReport] = (), comparison: Sequence[Sequence[str]] = ()
) -> str:
    """The page.

    Args:
        others: reports of other quantizations of the same baseline, plotted with this one: quality against size.
        comparison: a table of all of them, its head first.
    """
    page = _environment().get_template(TEMPLATE)
    return inert(
        page.render(report=report, others=list(others), comparison=list(comparison), tiles=_tiles(report)).lstrip()
    )


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
        "routing_note": routing_note,
        "sentences": sentences,
        "task_notes": task_notes,
    }
    return environment


def _tiles(report: AccuracyReport) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, and a line below."""
    candidate, baseline = report.setting.candidate, report.setting.baseline
    below = "" if report.setting.size_ratio is None else f"{size_ratio(report.setting)} of {size(baseline.num_bytes)}"
    tiles = [("size", size(candidate.num_bytes), below)]
    if (language := report.language) is not None:
        change = 100 * (language.perplexity_ratio.estimate - 1)
        perplexities = f"{language.baseline.per_token:.4g} → {language.candidate.per_token:.4g}"
        mean, p99 = f"{language.kl.mean.estimate:.3g}", f"99 % of tokens below {language.kl.p99:.2g} nats"
        tiles += [
            ("perplexity", f"{change:+.2f} %", perplexities),
            ("mean KL divergence", mean, p99),
            ("top-1 agreement", _share(language.top1_agreement.estimate), f"of {language.num_tokens:,} tokens"),
        ]
    for task in report.tasks:
        sides = f"{_share(task.baseline.accuracy)} → {_share(task.candidate.accuracy)}"
        tiles.append((f"accuracy, {task.name}", f"{-100 * task.accuracy_drop.estimate:+.1f} points", sides))
    return tiles


def _share(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _visible(token: str) -> str:
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return shown if shown.strip() else shown.replace(" ", "␣") or "(empty)"


def _end(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else "…" + text[-SHOWN_CHARACTERS:]
