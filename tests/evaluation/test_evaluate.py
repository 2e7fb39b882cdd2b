"""The check from end to end, on a real checkpoint, with the publisher's tokenizer."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.core.spec import QuantSpec
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.evaluate import evaluate, read_material
from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.source import LogitsSource
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.recipe.check_options import CheckOptions
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.models import golden_source, quantized
from tests.support.reports import SETTING
from tests.support.sources import Noisy, transformers_twin

GOLDEN = Path(__file__).parents[1] / "golden/chatglm2-tiny"
TEXT = "模型把文本变成向量。Quantization makes models small; 准确率要检查。\n" * 12
PROMPT = "评价：{text}\n情感："


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint(GOLDEN, family="chatglm2")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> GlmTokenizer:
    return load_tokenizer(GOLDEN, checkpoint.config)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    (directory / "zh.txt").write_text(TEXT, encoding="utf-8")
    (directory / "en.txt").write_text("Held-out text must not be seen before. " * 30, encoding="utf-8")
    lines = [f'{{"text": "评论{i} {"好" * (i % 5)}", "label": "{"pos" if i % 3 else "neg"}"}}\n' for i in range(30)]
    (directory / "reviews.jsonl").write_text("".join(lines), encoding="utf-8")
    return directory


def options(files: Path, **limits: float) -> CheckOptions:
    return CheckOptions.model_validate(
        {
            "text": [str(files / "zh.txt"), str(files / "en.txt")],
            "num_tokens": 150,
            "seq_len": 48,
            "tasks": [{"data": str(files / "reviews.jsonl"), "prompt": PROMPT, "labels": {"pos": "好", "neg": "差评"}}],
            "limits": limits,
        }
    )


def run(
    candidate: LogitsSource, checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path, **limits: float
) -> AccuracyReport:
    return evaluate(candidate, BaselineSource(checkpoint), tokenizer, options(files, **limits), SETTING)


def test_a_model_against_itself_differs_by_exactly_nothing(
    checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path
) -> None:
    limits = {"perplexity_ratio": 1.0, "mean_kl": 0.0, "top1_agreement": 1.0}
    report = run(BaselineSource(checkpoint), checkpoint, tokenizer, files, **limits)
    assert report.verdict is Verdict.PASS
    assert report.language is not None
    language, (task,) = report.language, report.tasks
    assert language.baseline == language.candidate
    assert (language.perplexity_ratio.low, language.perplexity_ratio.high) == (1.0, 1.0)
    assert (language.kl.mean.estimate, language.kl.max, language.top1_agreement.estimate) == (0.0, 0.0, 1.0)
    assert (task.baseline, task.same_answer, task.mcnemar_p) == (task.candidate, 1.0, 1.0)
    assert (language.num_tokens, [text.texts for text in report.texts]) == (2 * 3 * 47, [("zh.txt",), ("en.txt",)])


def test_perplexity_and_kl_equal_a_plain_loop_in_transformers(
    checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path
) -> None:
    """One forward a token prefix, one token at a time, over the documented windows."""
    rounded = golden_source("chatglm2-tiny")
    rounded = quantized(rounded, QuantSpec(4, 32))
    report = run(BaselineSource(rounded), checkpoint, tokenizer, files)
    twins = [transformers_twin(model) for model in (checkpoint, rounded)]
    ids = tokenizer.encode(TEXT)
    starts = [0, (len(ids) - 48) // 2, len(ids) - 48]
    losses: list[list[float]] = [[], []]
    divergences = []
    for start in starts:
        window = torch.tensor([[*tokenizer.prefix_ids, *ids[start : start + 48]]])
        with torch.inference_mode():
            logs = [torch.log_softmax(twin(window).logits[0].double(), -1) for twin in twins]
        for position in range(len(tokenizer.prefix_ids) + 1, window.shape[1]):
            rows = [log[position - 1] for log in logs]
            for side, row in enumerate(rows):
                losses[side].append(-float(row[window[0, position]]))
            divergences.append(float((rows[0].exp() * (rows[0] - rows[1])).sum()))
    zh = report.texts[0]
    assert len(divergences) == zh.num_tokens == 141
    assert zh.baseline.per_token == pytest.approx(math.exp(np.mean(losses[0])), rel=1e-4)
    assert zh.candidate.per_token == pytest.approx(math.exp(np.mean(losses[1])), rel=1e-4)
    assert zh.kl.mean.estimate == pytest.approx(np.mean(divergences), rel=1e-4)
    assert zh.kl.max == pytest.approx(max(divergences), rel=1e-3)
    num_bytes = sum(len(tokenizer.decode(ids[start : start + 48]).encode()) for start in starts) * 141 / 144
    assert zh.baseline.per_byte == pytest.approx(math.exp(sum(losses[0]) / num_bytes), rel=1e-4)


def test_task_scores_equal_a_plain_loop_in_transformers(
    checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path
) -> None:
    report = run(BaselineSource(checkpoint), checkpoint, tokenizer, files)
    twin = transformers_twin(checkpoint)
    confusion = np.zeros((2, 2), dtype=int)
    for i in range(30):
        prompt = PROMPT.replace("{text}", f"评论{i} {'好' * (i % 5)}")
        context = len(tokenizer.encode(prompt))
        totals = []
        for word in ("差评", "好"):
            ids = torch.tensor([[*tokenizer.prefix_ids, *tokenizer.encode(prompt + word)]])
            with torch.inference_mode():
                logs = torch.log_softmax(twin(ids).logits[0].double(), -1)
            start = len(tokenizer.prefix_ids) + context
            totals.append(sum(float(logs[j - 1, ids[0, j]]) for j in range(start, ids.shape[1])))
        confusion[int(bool(i % 3)), int(np.argmax(totals))] += 1
    assert report.tasks[0].baseline.confusion == tuple(map(tuple, confusion.tolist()))


def test_noise_costs_what_noise_costs(checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path) -> None:
    reports = [
        run(Noisy(BaselineSource(checkpoint), amount), checkpoint, tokenizer, files, mean_kl=0.02)
        for amount in (0.02, 1.0)
    ]
    little, much = (report.language for report in reports)
    assert little is not None
    assert much is not None
    assert little.kl.mean.estimate < 0.001
    assert much.kl.mean.estimate > 0.1
    # Independent noise of variance s² costs about s² / 2 of log-likelihood in KL, whatever the model.
    assert little.kl.mean.estimate == pytest.approx(0.02**2 / 2, rel=0.1)
    assert much.top1_agreement.estimate < little.top1_agreement.estimate < 1
    assert [report.verdict for report in reports] == [Verdict.PASS, Verdict.FAIL]


def test_texts_and_tasks_are_each_optional(checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path) -> None:
    whole = options(files)
    source = BaselineSource(checkpoint)
    only_text = evaluate(source, source, tokenizer, whole.model_copy(update={"tasks": ()}), SETTING)
    only_task = evaluate(source, source, tokenizer, whole.model_copy(update={"text": ()}), SETTING)
    assert only_text.language is not None
    assert (only_text.tasks, only_task.language, len(only_task.tasks)) == ((), None, 1)


def test_nothing_to_check_on(checkpoint: Checkpoint, tokenizer: GlmTokenizer) -> None:
    source = BaselineSource(checkpoint)
    with pytest.raises(CheckError, match=r"no text or task[\s\S]*check\.text"):
        evaluate(source, source, tokenizer, CheckOptions(), SETTING)


def test_progress_counts_tokens_up_to_the_last(checkpoint: Checkpoint, tokenizer: GlmTokenizer, files: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = BaselineSource(checkpoint)
    evaluate(source, source, tokenizer, options(files), SETTING, lambda *step: told.append(step))
    queries = read_material(tokenizer, options(files)).queries
    done = np.cumsum([len(query.tokens) for query in queries]).tolist()
    assert told == [("comparing, tokens", tokens, done[-1]) for tokens in done]
