"""What a check says at its end, on stdout, and its exit code."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glmquant.cli.printing import show, show_folded
from glmquant.cli.streams import ReaderGoneError

if TYPE_CHECKING:
    from glmquant.evaluation.results import AccuracyReport

EXIT_CODES: Final = {"pass": 0, "fail": 1, "inconclusive": 3, "not judged": 4}


def exit_code(result: "AccuracyReport", inconclusive: str | None) -> int:
    """Of a verdict; ``inconclusive`` says which verdict that one counts as."""
    return EXIT_CODES[inconclusive if inconclusive and result.verdict == "inconclusive" else result.verdict]


def show_result(result: "AccuracyReport", bundle: Path, written: Path | None, *, as_json: bool, verbose: bool) -> None:
    """Shows the end of a check; before it the report's tables where ``verbose``, and JSON in place of both.

    Args:
        bundle: that was judged.
        written: directory of the report; None where none was written.
    """
    from glmquant.cli.terminal import print_markdown
    from glmquant.reports.ending import in_short
    from glmquant.reports.markdown import to_markdown

    with suppress(ReaderGoneError):  # the verdict stands, whoever reads it
        if as_json:
            show(result.to_json(), end="")
            return
        if verbose:
            print_markdown(to_markdown(result))
        places = [*_places(bundle, written), ("next", _next(result, bundle))]
        lines = in_short(result, places).split("\n")
        show_folded("\n".join(lines[: -len(places)]))
        show("\n".join(lines[-len(places) :]))  # never folded: paths and commands are copied


def _places(bundle: Path, written: Path | None) -> list[tuple[str, str]]:
    page = "not written; --out DIR writes it" if written is None else str(written / "report.html")
    return [("bundle", str(bundle)), ("report", page)]


def _next(result: "AccuracyReport", bundle: Path) -> str:
    """What a user does then: a command, or what to change in this one."""
    from glmquant.reports.ending import tokens_to_decide

    if result.verdict == "not judged" and not result.limits:
        return "the same with a limit: --set check.limits.perplexity_ratio=1.05"
    if result.verdict == "inconclusive":
        tokens = tokens_to_decide(result)
        return (
            "more examples to check on" if tokens is None else f"more text to check on: --set check.num_tokens={tokens}"
        )
    if result.verdict == "pass":
        return shlex.join(["glmquant", *_use(bundle)])
    return "glmquant recipes"


def _use(bundle: Path) -> list[str]:
    from glmquant.runtime.session import is_classifier

    if is_classifier(bundle):
        return ["classify", str(bundle), "TEXT"]
    return ["chat", str(bundle)]
