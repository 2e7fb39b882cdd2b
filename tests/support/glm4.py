"""A tiny GLM-4 checkpoint's tokenizer files, in the publisher's layout."""

import base64
import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.tokenizers.tiktoken_model import PATTERN
from tests.support.golden import directory, published_config

SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
PROSE = (directory("chatglm2-tiny").parent / "README.md").read_text()


@cache
def ranks() -> dict[bytes, int]:
    """A byte-level vocabulary of 600: the bytes in another order than their values, then merges in training order."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = [PROSE, "你好世界，今天天气很好。你好！" * 5, "12 345 6789 don't I'll\n\n  x\n" * 5]
    trained.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in visible]
    letters |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    return {bytes(letters[letter] for letter in token): index for token, index in vocabulary}


def model_file() -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks().items())


def write_tokenizer(to: Path, *, declare: bool = True) -> GlmConfig:
    """Writes ``tokenizer.model`` and ``tokenizer_config.json``; gives the config of a model they fit."""
    first = len(ranks())
    (to / "tokenizer.model").write_bytes(model_file())
    declared = {str(first + i): {"content": token, "special": True} for i, token in enumerate(SPECIALS)}
    side = {"tokenizer_class": "ChatGLM4Tokenizer"} | ({"added_tokens_decoder": declared} if declare else {})
    (to / "tokenizer_config.json").write_text(json.dumps(side))
    config = published_config(
        _name_or_path="THUDM/glm-4-9b-chat", eos_token_id=[first, first + 7, first + 9], pad_token_id=first
    )
    return resolve_layout(config, config_path=to / "config.json").config
