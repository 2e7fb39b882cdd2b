"""The float model's answer is its own greedy one, however wrong the candidate's drafts are."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

import glmquant as gq
from glmquant.evaluation.answers import MOST_PASSES, greedy_answers, read_prompts
from glmquant.evaluation.source import Logits, Query
from glmquant.recipe.check_options import CheckOptions
from tests.hints.follow import follows, refused
from tests.support.paths import CHATGLM2
from tests.support.tokenizers import Letters

END = 10
SPOKEN = "the float model says this"


class Plain(Letters):
    chat_template = None


class Spoken:
    """Says :data:`SPOKEN` after a prompt of one token, then ends."""

    def __init__(self) -> None:
        self.passes = 0

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        self.passes += 1
        said = [*map(ord, SPOKEN), END]
        for query in queries:
            logits = np.zeros((query.num_logits, 128), np.float32)
            first = len(query.tokens) - query.num_logits
            for row in range(query.num_logits):
                logits[row, said[min(first + row, len(said) - 1)]] = 1
            yield logits


def drafting(wrong: set[int], ends_at: int = len(SPOKEN)):  # type: ignore[no-untyped-def]
    def draft(ids: Sequence[int], count: int) -> list[int]:
        places = range(len(ids) - 1, min(len(ids) - 1 + count, ends_at))
        tokens = [ord("?") if place in wrong else ord(SPOKEN[place]) for place in places]
        return tokens if len(tokens) == count else [*tokens, END]

    return draft


OPTIONS = CheckOptions(prompts=("p",), answer_tokens=40)


@pytest.mark.parametrize(("wrong", "ends_at", "passes"), [((), 25, 1), ({0}, 25, 2), ({3, 9, 24}, 25, 4), ((), 5, 99)])
def test_what_comes_out_is_what_the_float_model_says(wrong: set[int], ends_at: int, passes: int) -> None:
    baseline = Spoken()
    (answers,) = greedy_answers(drafting(set(wrong), ends_at), baseline, Plain(), OPTIONS, [END])
    assert SPOKEN.startswith(answers.baseline)
    assert answers.is_whole == (passes <= MOST_PASSES)
    assert answers.baseline == SPOKEN or not answers.is_whole
    assert baseline.passes == min(passes, MOST_PASSES)
    assert answers.same_tokens == min([*wrong, ends_at])


def test_an_answer_ends_with_its_last_token() -> None:
    options = OPTIONS.model_copy(update={"answer_tokens": 9})
    (answers,) = greedy_answers(drafting({2}), Spoken(), Plain(), options, [END])
    assert (answers.baseline, answers.is_whole) == (SPOKEN[:9], True)
    assert answers.candidate == "th? float"


@follows("shorten the prompt, or lower check.answer_tokens")
def test_a_prompt_leaves_room_for_an_answer() -> None:
    def read(prompt: str, answer_tokens: int) -> list[list[int]]:
        options = OPTIONS.model_copy(update={"prompts": (prompt,), "answer_tokens": answer_tokens})
        return read_prompts(Plain(), options, 41)

    assert refused(lambda: read("pp", 40)).where == "check.prompts.0"
    assert read("p", 40) == [[ord("p")]]
    assert read("pp", 39) == [[ord("p")] * 2]


def test_both_models_answer_in_a_report(tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = {"check.prompts": ["你好", "Hello"], "check.answer_tokens": 6, "check.num_tokens": 64}
    recipe = gq.load_recipe(None, settings | {"check.seq_len": 32, "check.text": ["glmquant:held-out-en.txt"]})
    bundle = gq.export(CHATGLM2, recipe, out=tmp_path / "onnx")
    report = gq.check(bundle, baseline=CHATGLM2, recipe=recipe, out=tmp_path / "report")
    assert [each.prompt for each in report.answers] == ["你好", "Hello"]
    assert all(each.baseline == each.candidate for each in report.answers), "the bundle is not quantized"
    assert gq.read_report(tmp_path / "report") == report
    assert "The same answer" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
