"""Conversations as the text of a check."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmquant.core.softmax import logsumexp
from glmquant.data.chat_windows import read_chats
from glmquant.errors import CheckError
from glmquant.evaluation.evaluate import evaluate, read_material
from glmquant.recipe.check_options import CheckOptions
from tests.support.golden import tokenizer as golden
from tests.support.reports import SETTING
from tests.support.sources import Hashed, Noisy

TOKENIZER = golden("chatglm3-tiny")
MODEL = Hashed(TOKENIZER.vocab_size)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    lines = []
    for number in range(12):
        said = [("user", f"question {number}"), ("assistant", "Hello " * (1 + number % 4))]
        said += [("user", "and?"), ("assistant", "好")]
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in said]}))
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def options(path: Path, **values: Any) -> CheckOptions:
    return CheckOptions.model_validate({"text": [str(path)], "num_tokens": 200, "seq_len": 64, **values})


@pytest.mark.parametrize("scored", ["all", "answers"])
def test_perplexity_is_that_of_the_scored_tokens_alone(chats: Path, scored: str) -> None:
    report = evaluate(Noisy(MODEL, 0.1), MODEL, TOKENIZER, options(chats, scored=scored), SETTING)
    found = read_chats(chats, TOKENIZER, num_tokens=200, seq_len=64, scored=scored)  # type: ignore[arg-type]
    nll = []
    for window, mask in zip(found.windows, found.scored, strict=True):
        for place in len(window) - len(mask) + np.flatnonzero(mask):
            row = MODEL.row(window[:place].tolist()).astype(np.float64)
            nll.append(float(logsumexp(row[None])[0] - row[window[place]]))
    assert report.language is not None
    assert report.language.num_tokens == len(nll)
    assert report.language.baseline.per_token == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    assert report.language.kl.mean.units == len(found.windows)
    assert report.language.baseline.per_byte == pytest.approx(math.exp(sum(nll) / sum(found.num_bytes)), rel=1e-5)


def test_the_worst_token_is_one_that_is_scored(chats: Path) -> None:
    report = evaluate(Noisy(MODEL, 1.0), MODEL, TOKENIZER, options(chats, scored="answers"), SETTING)
    assert report.language is not None
    assert [worst.actual for worst in report.language.worst if worst.actual.strip() not in "Hello 好"] == []


def test_answers_of_plain_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text " * 200, encoding="utf-8")
    with pytest.raises(CheckError, match=r"a\.txt is text, without answers[\s\S]*check\.scored=all"):
        read_material(TOKENIZER, options(path, scored="answers"))


def test_windows_fit_the_context(chats: Path) -> None:
    with pytest.raises(CheckError, match="do not fit the context length of 32"):
        read_material(TOKENIZER, options(chats), 32)
