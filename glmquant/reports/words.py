"""Outcomes and numbers in words, as all reports show them."""

from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.metrics import KlSummary
from glmquant.evaluation.results import Setting
from glmquant.evaluation.tasks import TaskResult

WORDS = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.INCONCLUSIVE: "inconclusive", None: "not measured"}
MARKS = {
    Verdict.PASS: "✅ pass",
    Verdict.FAIL: "❌ fail",
    Verdict.INCONCLUSIVE: "❔ inconclusive",
    None: "➖ not measured",
}


def size_ratio(setting: Setting) -> str:
    """The candidate's size in percent of the baseline's."""
    return "unknown share" if setting.size_ratio is None else f"{setting.size_ratio:.1%}"


def kl_percentiles(kl: KlSummary) -> str:
    return f"{kl.median:.3g}, {kl.p99:.3g}, {kl.p999:.3g}, {kl.max:.3g}"


def task_notes(task: TaskResult) -> list[str]:
    """What a reader must know before the numbers of a task."""
    notes = [f"{task.num_examples:,} examples; accuracy of a majority-class classifier: {task.majority:.2%}."]
    if task.num_truncated:
        notes.append(f"{task.num_truncated:,} texts were truncated to the context length.")
    if task.near_chance:
        notes.append("The baseline is not better than majority-class guessing: this task cannot measure quantization.")
    return notes
