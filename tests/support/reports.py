"""Reports for tests, with every field filled."""

import numpy as np

from glmquant.evaluation.gate import judge, overall
from glmquant.evaluation.metrics import LanguageMetrics, ScoredWindow, TokenScores, summarize
from glmquant.evaluation.results import SCHEMA, AccuracyReport, LibraryVersion, ModelFacts, Setting
from glmquant.evaluation.statistics import Interval, PairedCounts
from glmquant.evaluation.tasks import ChangedAnswer, ClassifierQuality, ClassQuality, TaskResult
from glmquant.recipe.check_options import Limits

SETTING = Setting(
    candidate=ModelFacts("onnx", 3_400_000_000),
    baseline=ModelFacts("chatglm2-6b", 12_500_000_000),
    accuracy_level=4,
    versions=(LibraryVersion("glmquant", "0.1.0"), LibraryVersion("onnxruntime", "1.32.0")),
    recipe="int4-g128-gptq",
)


def language(texts: tuple[str, ...] = ("held_out.txt",), loss: float = 0.02, seed: int = 0) -> LanguageMetrics:
    rng = np.random.default_rng(seed)
    windows = []
    for text in texts:
        for _ in range(8):
            baseline = 2 + rng.normal(size=31)
            candidate = baseline + loss + 0.05 * rng.normal(size=31)
            kl, same = np.abs(rng.normal(size=31)) * loss, (rng.random(31) < 0.97).astype(float)
            windows.append(ScoredWindow(text, TokenScores(baseline, candidate, kl, same), 120.0))
    return summarize(windows)


def _quality(accuracy: float) -> ClassifierQuality:
    classes = (ClassQuality("neg", 0.9, 0.8, 0.85, 100), ClassQuality("pos|好", 0.8, 0.9, 0.85, 100))
    return ClassifierQuality(accuracy, 0.85, classes, ((80, 20), (10, 90)))


def task() -> TaskResult:
    return TaskResult(
        name="reviews",
        labels=("neg", "pos|好"),
        num_examples=200,
        baseline=_quality(0.87),
        candidate=_quality(0.85),
        num_truncated=3,
        accuracy=Interval(0.85, 0.79, 0.89, 200, 0.36),
        accuracy_drop=Interval(0.02, -0.01, 0.05, 200, 0.2),
        macro_f1=Interval(0.85, 0.8, 0.9, 200, 0.3),
        macro_f1_drop=Interval(0.0, -0.03, 0.03, 200, 0.2),
        pairs=PairedCounts(165, 9, 5, 21),
        mcnemar_p=0.424,
        same_answer=0.93,
        majority=0.5,
        near_chance=False,
        answers=((0, 0, 1), (1, 1, 1)) * 100,
        changed=(ChangedAnswer("好书 <b>", "neg", "neg", "pos|好", 1.5),),
    )


def report(limits: Limits | None = None) -> AccuracyReport:
    """By default one limit is met, one missed, one undecided."""
    chosen = limits or Limits.model_validate({"perplexity_ratio": 1.5, "mean_kl": 0.001, "accuracy_drop": 0.01})
    everything = language(("en.txt", "zh.txt"))
    outcomes = judge(chosen, everything, [task()])
    texts = (language(("en.txt",)), language(("zh.txt",), seed=1))
    return AccuracyReport(SCHEMA, overall(outcomes), SETTING, outcomes, everything, texts, (task(),))
