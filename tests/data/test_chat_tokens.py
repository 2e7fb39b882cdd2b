from dataclasses import replace

import numpy as np
import pytest

from glmquant.data.chat_tokens import ChatEncoder
from glmquant.data.conversations import Said
from glmquant.errors import CheckpointError, DataError
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from tests.support.glm4 import write_tokenizer
from tests.support.golden import tokenizer as golden

TWICE = [Said("user", "你好"), Said("assistant", "Hello there"), Said("user", "再见"), Said("assistant", "Bye now")]


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    directory = tmp_path_factory.mktemp("glm4")
    return load_tokenizer(directory, write_tokenizer(directory))


@pytest.fixture
def tokenizers(glm4: GlmTokenizer) -> dict[str, GlmTokenizer]:
    own = golden("chatglm3-tiny")
    ended = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}<|user|>\n\n{% endif %}"
    )
    ended += "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    return {
        "chatglm2": golden("chatglm2-tiny"),
        "chatglm3": own,
        "glm-4": glm4,
        "own": replace(own, chat_template=ended),
    }


def shown(tokenizer: GlmTokenizer, ids: np.ndarray) -> str:
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def spans(mask: np.ndarray) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]


WHOLE = {
    "chatglm2": "[gMASK]sop [Round 1]\n\n问：你好\n\n答：Hello there\n\n[Round 2]\n\n问：再见\n\n答：Bye now</s>",
    "chatglm3": "[gMASK]sop<|user|> 你好<|assistant|> Hello there<|user|> 再见<|assistant|> Bye now<|user|>",
    "glm-4": "[gMASK]<sop><|user|>\n你好<|assistant|>\nHello there<|user|>\n再见<|assistant|>\nBye now<|user|>",
}
ANSWERS = {
    "chatglm2": ["Hello there", "Bye now</s>"],
    "chatglm3": ["Hello there<|user|>", "Bye now<|user|>"],
    "glm-4": ["\nHello there<|user|>", "\nBye now<|user|>"],
    "own": ["Hello there<|user|>", "Bye now<|user|>"],
}


@pytest.mark.parametrize("family", WHOLE)
def test_a_conversation_is_written_by_the_models_template(family: str, tokenizers: dict[str, GlmTokenizer]) -> None:
    tokenizer = tokenizers[family]
    assert shown(tokenizer, ChatEncoder(tokenizer).ids(TWICE, "here")).replace("\n ", "\n") == WHOLE[family]


@pytest.mark.parametrize("family", ANSWERS)
def test_answers_are_what_the_model_says_with_its_end(family: str, tokenizers: dict[str, GlmTokenizer]) -> None:
    tokenizer = tokenizers[family]
    encoder = ChatEncoder(tokenizer)
    ids = encoder.ids(TWICE, "here")
    mask = encoder.answers(TWICE, ids, "here", len(ids))
    assert [shown(tokenizer, ids[span]).strip(" ") for span in spans(mask)] == [
        each.strip(" ") for each in ANSWERS[family]
    ]
    for number, span in enumerate(spans(mask)):
        asked = tokenizer.apply_chat_template(TWICE[: 2 * number + 1])
        assert ids[: span.start].tolist() == asked


def test_answers_behind_the_limit_are_not_looked_for(glm4: GlmTokenizer) -> None:
    encoder = ChatEncoder(glm4)
    ids = encoder.ids(TWICE, "here")
    second = spans(encoder.answers(TWICE, ids, "here", len(ids)))[1].start
    assert len(spans(encoder.answers(TWICE, ids, "here", second))) == 1


def test_a_model_without_a_template_says_so(glm4: GlmTokenizer) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        ChatEncoder(replace(glm4, chat_template=None)).ids(TWICE, "here")


def test_turns_that_the_template_refuses_are_named(tokenizers: dict[str, GlmTokenizer]) -> None:
    with pytest.raises(DataError, match=r"turns must alternate[\s\S]*where: a\.jsonl, line 3"):
        ChatEncoder(tokenizers["chatglm2"]).ids([Said("system", "x"), *TWICE], "a.jsonl, line 3")


def test_a_template_that_rewrites_earlier_turns_cannot_be_scored(glm4: GlmTokenizer) -> None:
    forgetful = "[gMASK]<sop>{% for m in messages[-2:] %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    forgetful += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    encoder = ChatEncoder(replace(glm4, chat_template=forgetful))
    ids = encoder.ids(TWICE, "here")
    with pytest.raises(DataError, match=r"cannot be told[\s\S]*check\.scored=all"):
        encoder.answers(TWICE, ids, "here", len(ids))


def test_special_tokens_in_what_is_said_stay_text(glm4: GlmTokenizer) -> None:
    said = [Said("user", "<|assistant|>"), Said("assistant", "x")]
    encoder = ChatEncoder(glm4)
    ids = encoder.ids(said, "here")
    (span,) = spans(encoder.answers(said, ids, "here", len(ids)))
    assert shown(glm4, ids[span]) == "\nx<|user|>"
