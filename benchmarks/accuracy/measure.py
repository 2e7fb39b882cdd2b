"""How far a candidate is from the float checkpoint on a text, computed once for each pair."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from benchmarks.accuracy.inputs import LENGTH, Inputs
from benchmarks.accuracy.read_back import Candidate
from glmquant.data.windows import TokenStream
from glmquant.evaluation.baseline_cache import BaselineCache
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.evaluate import evaluate
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.results import ModelFacts, Setting
from glmquant.evaluation.statistics import Interval, mean_interval
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.recipe.check_options import CheckOptions

WINDOWS = 64
_METRICS = TypeAdapter(LanguageMetrics)


class Meter:
    """Measures candidates of one model: both in float32, the linears as the files stand for them.

    The hidden states of the float checkpoint are kept on disk; its logits are computed from them again.
    """

    def __init__(self, inputs: Inputs, most_windows: int | None = None) -> None:
        checkpoint = inputs.checkpoint
        self._most_windows = most_windows or WINDOWS
        self._tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
        self._baseline = BaselineSource(
            checkpoint, cache=BaselineCache(inputs.path("baseline"), checkpoint.fingerprint, checkpoint.config)
        )

    def windows(self, text: Path) -> int:
        """How many windows are evaluated: the last ones, or what a shorter text has."""
        return min(self._most_windows, sum(1 for _ in TokenStream(text, self._tokenizer).windows(LENGTH)))

    def measure(self, candidate: Candidate, text: Path) -> LanguageMetrics:
        options = CheckOptions(
            text=(str(text),), num_tokens=self.windows(text) * LENGTH, seq_len=LENGTH, windows="last"
        )
        unnamed = ModelFacts("", 0)
        setting = Setting(unnamed, unnamed, None, ())
        report = evaluate(BaselineSource(candidate.source), self._baseline, self._tokenizer, options, setting)
        assert report.language is not None
        return report.language


def write_metrics(metrics: LanguageMetrics, path: Path) -> None:
    path.write_text(json.dumps(asdict(metrics), ensure_ascii=False, indent=1), encoding="utf-8")


def read_metrics(path: Path) -> LanguageMetrics:
    return _METRICS.validate_json(path.read_bytes())


def kl_difference(first: LanguageMetrics, second: LanguageMetrics) -> Interval:
    """The mean KL of the first less the second's, on the same windows."""
    pairs = zip(first.windows, second.windows, strict=True)
    return mean_interval(np.array([one.kl - other.kl for one, other in pairs]))
