from pathlib import Path

import pytest

from glmquant import api, assets
from glmquant.errors import GenerationError
from glmquant.glm.tokenizers.chat import Message
from glmquant.runtime.chat import Chat
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from glmquant.runtime.tokenizer import load_bundle_tokenizer
from tests.hints.follow import follows, refused
from tests.support.paths import GOLDEN


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


def test_the_oldest_turns_are_left_out_where_the_context_is_full(bundle: Path) -> None:
    chat = api.open_chat(bundle, options=GenerationOptions(max_new_tokens=1))
    left_out = []
    for number in range(3):
        "".join(chat.say(f"{number} " + "Debian " * 400))
        left_out.append(chat.left_out)
    assert left_out == [0, 0, 2]
    assert [turn.content[0] for turn in chat.messages if turn.role == "user"] == ["1", "2"]
    with pytest.raises(GenerationError, match="leaves no room"):
        chat.say("Debian " * 2000)
    chat.reset()
    assert chat.messages == ()


@pytest.mark.parametrize(("name", "value"), [("system", "短"), ("thinking", True)])
@follows("leave `{}` out")
def test_what_the_template_does_not_take_is_refused_at_once(name: str, value: str | bool, bundle: Path) -> None:
    refused(lambda: api.open_chat(bundle, **{name: value}))  # type: ignore[arg-type]
    assert api.open_chat(bundle).system is None


@follows("put it at the start of the prompt, or use the chat template")
def test_a_system_message_needs_the_chat_template(bundle: Path) -> None:
    options = GenerationOptions(max_new_tokens=1)
    refused(lambda: api.generate(bundle, "你好", chat=False, system="短", options=options))
    assert "".join(api.generate(bundle, "短 你好", chat=False, options=options))
    spoken = api.export(GOLDEN["chatglm3-tiny"], out=bundle.parent / "chatglm3").path
    assert isinstance("".join(api.generate(spoken, "你好", system="短", options=options)), str)
