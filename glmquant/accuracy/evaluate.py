"""The check itself: both models read the same tokens once, and everything is measured from that."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from glmquant.accuracy.gate import judge, overall
from glmquant.accuracy.metrics import LanguageMetrics, ScoredWindow, score_tokens, summarise
from glmquant.accuracy.report import SCHEMA, AccuracyReport, Setting
from glmquant.accuracy.source import Logits, LogitsSource, Query
from glmquant.accuracy.tasks import TaskPlan, TaskResult, compare, label_scores, plan_task
from glmquant.data.tokenizer import Tokenizer
from glmquant.data.windows import EvaluationText, last_windows
from glmquant.errors import CheckError
from glmquant.progress import Progress, silent
from glmquant.recipe.schema import CheckOptions

Pairs = Iterator[tuple[Logits, Logits]]


def evaluate(
    candidate: LogitsSource,
    baseline: LogitsSource,
    tokenizer: Tokenizer,
    options: CheckOptions,
    setting: Setting,
    progress: Progress = silent,
) -> AccuracyReport:
    """Measures the candidate against the baseline on the texts and tasks of ``options``.

    Raises:
        DataError: text or labelled data that cannot be read.
        CheckError: nothing to measure, too little text, or models that cannot be compared.
    """
    texts = [
        last_windows(Path(name), tokenizer, num_tokens=options.num_tokens, seq_len=options.seq_len)
        for name in options.text
    ]
    plans = [plan_task(task, tokenizer) for task in options.tasks]
    if not texts and not plans:
        raise CheckError(
            "there is nothing to check on", expected="a text or a task", fix="give --text, or check.text in the recipe"
        )
    queries = [query for text in texts for query in _window_queries(text)]
    queries += [query for plan in plans for query in plan.queries]
    pairs = _paired(baseline, candidate, queries, progress)
    by_text = [_score_text(text, pairs) for text in texts]
    tasks = tuple(_score_task(plan, pairs) for plan in plans)
    return _report(by_text, tasks, options, setting)


def _report(
    by_text: Sequence[Sequence[ScoredWindow]], tasks: tuple[TaskResult, ...], options: CheckOptions, setting: Setting
) -> AccuracyReport:
    language: LanguageMetrics | None = None
    if by_text:
        language = summarise([window for windows in by_text for window in windows])
    limits = judge(options.limits, language, tasks)
    return AccuracyReport(
        schema=SCHEMA,
        verdict=overall(limits),
        setting=setting,
        limits=limits,
        language=language,
        texts=tuple(summarise(windows) for windows in by_text) if len(by_text) > 1 else (),
        tasks=tasks,
    )


def _paired(baseline: LogitsSource, candidate: LogitsSource, queries: Sequence[Query], progress: Progress) -> Pairs:
    answers = zip(baseline.logits(queries), candidate.logits(queries), strict=True)
    for done, pair in enumerate(answers, start=1):
        progress("comparing", done, len(queries))
        yield pair


def _window_queries(text: EvaluationText) -> list[Query]:
    """The last token of a window is predicted but not read."""
    return [Query(window[:-1], text.num_scored) for window in text.windows]


def _score_text(text: EvaluationText, pairs: Pairs) -> list[ScoredWindow]:
    num_bytes = text.num_scored * text.bytes_per_token
    return [
        ScoredWindow(text.name, score_tokens(*pair, window[-text.num_scored :]), num_bytes)
        for window, pair in zip(text.windows, islice(pairs, len(text.windows)), strict=True)
    ]


def _score_task(plan: TaskPlan, pairs: Pairs) -> TaskResult:
    scores = []
    for example in plan.examples:
        both = list(islice(pairs, len(example.queries)))
        scores.append([label_scores(example, side) for side in zip(*both, strict=True)])
    baseline_EL, candidate_EL = np.array(scores).swapaxes(0, 1)
    return compare(plan, baseline_EL, candidate_EL)
