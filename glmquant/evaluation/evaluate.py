"""The accuracy check: both models read the same tokens once, and all metrics follow from their logits.

Shape suffixes: I examples, L labels.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.chat_tokens import Mask
from glmquant.data.chat_windows import EvaluationChats, read_chats
from glmquant.data.reading import Reading
from glmquant.data.sequences import Ids
from glmquant.data.text import holds_conversations
from glmquant.data.windows import EvaluationText, read_windows
from glmquant.errors import CheckError
from glmquant.evaluation.answers import read_prompts
from glmquant.evaluation.examples import worst_token
from glmquant.evaluation.gate import judge, overall
from glmquant.evaluation.metrics import LanguageMetrics, ScoredWindow, score_tokens, summarize
from glmquant.evaluation.plan import PlannedExample, Scores, TaskPlan, plan_task, query_scores, without_prior
from glmquant.evaluation.regression import require_pairable
from glmquant.evaluation.results import SCHEMA, AccuracyReport, Setting, TextCoverage
from glmquant.evaluation.routing_metrics import RoutingMetrics, routed_windows
from glmquant.evaluation.share import Share
from glmquant.evaluation.source import Logits, LogitsSource, Query, digest_of
from glmquant.evaluation.tasks import TaskResult, Truth, compare
from glmquant.progress import Progress, silent
from glmquant.recipe.check_options import CheckOptions

log = logging.getLogger("glmquant")
Score = ScoredWindow | tuple[Scores, Scores]
"""What becomes of both models' logits for a query: a window's scores, or both sides' label scores."""
Scorer = Callable[[Logits, Logits], Score]


@dataclass(frozen=True, eq=False)
class Material:
    """The texts and tasks of a check, tokenized."""

    texts: tuple[EvaluationText | EvaluationChats, ...]
    plans: tuple[TaskPlan, ...]

    @property
    def truths(self) -> list[Truth]:
        return [plan.truth for plan in self.plans]

    @property
    def window_names(self) -> list[str]:
        """The name of each window's text."""
        return [text.name for text in self.texts for _ in text.windows]

    @property
    def digests(self) -> list[str]:
        """sha256 of each text's windows."""
        return [_digest(text) for text in self.texts]

    @property
    def queries(self) -> list[Query]:
        windows = [query for text in self.texts for query in _window_queries(text)]
        return windows + [query for plan in self.plans for query in plan.queries]


def read_material(tokenizer: Tokenizer, options: CheckOptions, max_length: int | None = None) -> Material:
    """Read and tokenize the texts and tasks of ``options``.

    Args:
        max_length: the context length of both models in tokens; None for no limit. Windows must fit; a task's text
            that does not is truncated, and counted.

    Raises:
        DataError: text or labeled data that cannot be read.
        CheckError: nothing to measure, too little text, windows longer than the context, a task that cannot be scored,
            or a prompt that leaves no room for an answer.
    """
    texts = tuple(_read_text(Path(name), tokenizer, options) for name in options.text)
    _refuse_repeated(texts)
    read = options.seq_len - 1 + len(tokenizer.prefix_ids)
    if texts and max_length is not None and read > max_length:
        raise CheckError(
            f"windows of {options.seq_len} tokens do not fit the context length of {max_length}",
            where="check.seq_len",
            expected=f"at most {max_length + 1 - len(tokenizer.prefix_ids)}",
            hint="lower check.seq_len, or, where the model was made for more, export with a larger export.max_length",
        )
    read_prompts(tokenizer, options, max_length)
    plans = tuple(plan_task(task, tokenizer, max_length) for task in options.tasks)
    if not texts and not plans:
        raise CheckError(
            "there is no text or task to check on",
            where="check.text, check.tasks",
            expected="at least one text file or task",
            hint="set check.text or check.tasks",
        )
    return Material(texts, plans)


def _refuse_repeated(texts: Sequence[EvaluationText | EvaluationChats]) -> None:
    """A text that counts twice narrows the interval without any evidence."""
    seen: dict[str, str] = {}
    for text in texts:
        if text.sha256 in seen:
            raise CheckError(
                f"{text.name} is the same text as {seen[text.sha256]}",
                where="check.text",
                expected="each text once: repeated windows make the interval look narrower than it is",
                hint="leave one of them out",
            )
        seen[text.sha256] = text.name


def _read_text(path: Path, tokenizer: Tokenizer, options: CheckOptions) -> EvaluationText | EvaluationChats:
    reading = Reading("check", options.encoding, options.text_field)
    amount, length = options.num_tokens, options.seq_len
    if holds_conversations(path, reading):
        return read_chats(path, tokenizer, num_tokens=amount, seq_len=length, scored=options.scored, reading=reading)
    if options.scored == "answers":
        raise CheckError(
            f"{path.name} is text, without answers to score",
            where="check.scored",
            expected="conversations (docs/data.md)",
            hint="give conversations, or set check.scored=all",
        )
    place = options.windows
    return read_windows(path, tokenizer, num_tokens=amount, seq_len=length, place=place, reading=reading)


def evaluate(
    candidate: LogitsSource,
    baseline: LogitsSource,
    tokenizer: Tokenizer,
    options: CheckOptions,
    setting: Setting,
    progress: Progress = silent,
    max_length: int | None = None,
    calibration_texts: Collection[str] = (),
    against: AccuracyReport | None = None,
    route: Callable[[Sequence[Ids]], RoutingMetrics] | None = None,
    share: Share | None = None,
) -> AccuracyReport:
    """Measure the candidate against the baseline on the texts and tasks of ``options``.

    Args:
        route: compares the experts that both models choose on windows of tokens, once the baseline has answered the
            same windows as routed queries; None for models without routed experts.
        calibration_texts: sha256 of each text that the candidate was calibrated on.
        against: an earlier report that this one is to be compared with.
        share: of the queries, what both sources answer here: several ranks score the queries that each answers, and all
            make the same report.

    Raises:
        DataError, CheckError: see :func:`read_material`; CheckError also for different vocabularies, for logits that
            are not finite, and where ``against`` was measured on other data.
    """
    material = read_material(tokenizer, options, max_length)
    if against is not None:
        require_pairable(against, material.window_names, material.digests, material.truths)
    queries = material.queries if route is None else _with_routed(material)
    share = share or Share()
    share.ranks.require_same(lambda: {"the texts and tasks": digest_of(queries)})
    scores = iter(_scores(baseline, candidate, queries, _scorers(material, tokenizer), share, progress))
    by_text = [[cast(ScoredWindow, next(scores)) for _ in text.windows] for text in material.texts]
    tasks = tuple(_task_result(plan, scores) for plan in material.plans)
    coverage = tuple(_coverage(text, options.seq_len, calibration_texts) for text in material.texts)
    routed = [query.tokens for query in queries if query.routed]
    routing = route(routed) if route is not None and routed else None
    return replace(_report(by_text, tasks, options, setting, routing), coverage=coverage)


def _with_routed(material: Material) -> list[Query]:
    """The queries; of those that are windows of text, some are routed."""
    queries = material.queries
    chosen = routed_windows([len(query.tokens) for query in queries[: len(material.window_names)]])
    return [replace(query, routed=number in chosen) for number, query in enumerate(queries)]


def _coverage(text: EvaluationText | EvaluationChats, seq_len: int, calibration_texts: Collection[str]) -> TextCoverage:
    calibrated_on = text.sha256 in calibration_texts
    if calibrated_on:
        log.warning("the model was calibrated on %s: what it loses there says little of other text", text.name)
    chats = isinstance(text, EvaluationChats)
    read = sum(map(len, text.windows)) if chats else len(text.windows) * seq_len
    return TextCoverage(text.name, read, text.num_tokens, calibrated_on, _digest(text))


def _digest(text: EvaluationText | EvaluationChats) -> str:
    """sha256 of the tokens that are read, and of which are scored."""
    digest = hashlib.sha256()
    for window_T, scored_R, _ in _scored(text):
        digest.update(f"{len(window_T)} {len(scored_R)}\0".encode())
        digest.update(window_T.astype("<i8").tobytes() + scored_R.tobytes())
    return digest.hexdigest()


def _report(
    by_text: Sequence[Sequence[ScoredWindow]],
    tasks: tuple[TaskResult, ...],
    options: CheckOptions,
    setting: Setting,
    routing: RoutingMetrics | None,
) -> AccuracyReport:
    language: LanguageMetrics | None = None
    if by_text:
        language = summarize([window for windows in by_text for window in windows])
    limits = judge(options.limits, language, tasks, routing)
    return AccuracyReport(
        schema=SCHEMA,
        verdict=overall(limits),
        setting=setting,
        limits=limits,
        language=language,
        texts=tuple(summarize(windows) for windows in by_text) if len(by_text) > 1 else (),
        tasks=tasks,
        routing=routing,
    )


def _scores(
    baseline: LogitsSource,
    candidate: LogitsSource,
    queries: Sequence[Query],
    scorers: Sequence[Scorer],
    share: Share,
    progress: Progress,
) -> list[Score]:
    """Of all queries, each scored where it is answered. Progress counts this rank's tokens: queries differ in length by
    a factor of 100."""
    numbers = share.numbers(queries)
    total, done = sum(len(queries[number].tokens) for number in numbers), 0
    scores: dict[int, Score] = {}
    answers = zip(baseline.logits(queries), candidate.logits(queries), strict=True)
    for number, pair in zip(numbers, answers, strict=True):
        done += len(queries[number].tokens)
        progress("comparing, tokens", done, total)
        scores[number] = scorers[number](*pair)
    gathered = {number: score for part in share.ranks.gather(scores) for number, score in part.items()}
    return [gathered[number] for number in range(len(queries))]


def _scorers(material: Material, tokenizer: Tokenizer) -> list[Scorer]:
    """Of each query, in the order of :attr:`Material.queries`."""
    scorers: list[Scorer] = []
    for text in material.texts:
        scorers += [partial(_score_window, text.name, window, tokenizer) for window in _scored(text)]
    for plan in material.plans:
        for example in plan.examples:
            count = len(plan.truth.labels)
            scorers += [partial(_score_query, example, query, count) for query in range(len(example.queries))]
    return scorers


def _window_queries(text: EvaluationText | EvaluationChats) -> list[Query]:
    """The last token of a window is only predicted, not read."""
    return [Query(window[:-1], len(scored_R)) for window, scored_R, _ in _scored(text)]


def _scored(text: EvaluationText | EvaluationChats) -> Iterator[tuple[Ids, Mask, float]]:
    """Each window, which of its last tokens are scored, and their UTF-8 bytes."""
    if isinstance(text, EvaluationChats):
        return zip(text.windows, text.scored, text.num_bytes, strict=True)
    all_R = np.ones(text.num_scored, dtype=bool)
    return zip(text.windows, repeat(all_R), repeat(text.num_scored * text.bytes_per_token), strict=False)


def _score_window(
    name: str, window: tuple[Ids, Mask, float], tokenizer: Tokenizer, baseline_RV: Logits, candidate_RV: Logits
) -> ScoredWindow:
    window_T, scored_R, num_bytes = window
    places = len(window_T) - len(scored_R) + np.flatnonzero(scored_R)
    if not scored_R.all():
        baseline_RV, candidate_RV = baseline_RV[scored_R], candidate_RV[scored_R]
    scores = score_tokens(baseline_RV, candidate_RV, window_T[places])
    worst = worst_token(name, window_T, places, baseline_RV, candidate_RV, scores, tokenizer)
    return ScoredWindow(name, scores, num_bytes, worst)


def _score_query(
    example: PlannedExample, query: int, num_labels: int, baseline_RV: Logits, candidate_RV: Logits
) -> tuple[Scores, Scores]:
    """Of both sides."""
    return (
        query_scores(example, query, baseline_RV, num_labels),
        query_scores(example, query, candidate_RV, num_labels),
    )


def _task_result(plan: TaskPlan, scores: Iterator[Score]) -> TaskResult:
    """Of an example's queries, each scores other labels."""
    by_query = [[cast(tuple[Scores, Scores], next(scores)) for _ in example.queries] for example in plan.examples]
    sides = np.array([np.max(each, axis=0) for each in by_query]).swapaxes(0, 1)
    baseline_IL, candidate_IL = (without_prior(side) if plan.remove_prior else side for side in sides)
    return compare(plan.truth, baseline_IL, candidate_IL)
