from pathlib import Path

import pytest

from glmquant import api, assets
from glmquant.glm.tokenizers.chat import Message
from glmquant.runtime.chat import Chat
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from glmquant.runtime.tokenizer import load_bundle_tokenizer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.export(assets.DEMO_MODEL, out=tmp_path_factory.mktemp("chat") / "onnx").path


def test_each_turn_answers_the_whole_conversation(bundle: Path) -> None:
    model, tokenizer = OnnxModel.open(bundle), load_bundle_tokenizer(bundle)
    options = GenerationOptions(max_new_tokens=12)
    chat = Chat(model, tokenizer, options)
    first = "".join(chat.say("如何安装？"))
    second = "".join(chat.say("The Debian system"))
    said = [Message("user", "如何安装？"), Message("assistant", first), Message("user", "The Debian system")]
    assert chat.messages == (*said, Message("assistant", second))
    alone = Chat(model, tokenizer, options)
    alone._messages = said[:2]
    assert "".join(alone.say("The Debian system")) == second


def test_a_turn_that_was_not_read_is_not_remembered(bundle: Path) -> None:
    chat = Chat(OnnxModel.open(bundle), load_bundle_tokenizer(bundle), GenerationOptions(max_new_tokens=12))
    next(iter(chat.say("你好")))
    assert chat.messages == ()
