"""What GitHub shows beside a pull request: an annotation for each error, and for each limit that was not met.

Written as its runner reads them from a step's log, `workflow commands
<https://docs.github.com/actions/reference/workflow-commands-for-github-actions>`_, and only where it sets
``GITHUB_ACTIONS``; on stderr, so that stdout stays the result alone.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from glmquant.cli.printing import show_command

if TYPE_CHECKING:
    from glmquant.evaluation.results import AccuracyReport

Level = Literal["error", "warning", "notice"]


def annotate(level: Level, title: str, message: str) -> None:
    """Shows ``message``, of one line or several, where GitHub's runner reads the log; else nothing."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        show_command(level, {"title": title}, message)


def annotate_result(result: "AccuracyReport", code: int) -> None:
    """Annotates what decided a check's verdict: as errors where its exit code is not 0, else as warnings."""
    level: Level = "error" if code else "warning"
    for title, message in _undone(result):
        annotate(level, title, message)


def _undone(result: "AccuracyReport") -> Iterator[tuple[str, str]]:
    """Title and message for each limit that was missed or undecided; where none was judged, the reason."""
    from glmquant.evaluation.gate import Verdict
    from glmquant.reports.words import HOW_TO_SET_LIMITS, rounded

    for outcome in result.limits:
        if outcome.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
            measured = "" if outcome.measured is None else f"{rounded(outcome.measured)}, "
            yield f"{outcome.name}: {outcome.verdict.value}", f"{measured}{outcome.bound_in_words}: {outcome.reason}"
    if result.verdict == Verdict.NOT_JUDGED:
        yield "not judged", "; ".join(outcome.reason for outcome in result.limits) or HOW_TO_SET_LIMITS
