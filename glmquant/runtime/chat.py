"""A conversation in the model's own chat template."""

from collections.abc import Iterator

from glmquant.errors import CheckpointError, GenerationError, Parameter
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, StreamDecoder
from glmquant.runtime.generate import Conversation
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from glmquant.runtime.text import stream_text


class Chat:
    """Keeps the messages and the KV cache; each turn computes only its new tokens.

    Args:
        thinking: whether the model is to think before it answers; None for the template's own default.
        system: what the model is told before the first turn; None for nothing.

    Attributes:
        max_length: the context: tokens of the prompt, which holds all turns, and of the answer together.

    Raises:
        GenerationError: the chat template takes no system message, or has no switch for thinking.
        CheckpointError: the bundle has no chat template.
    """

    def __init__(
        self,
        model: OnnxModel,
        tokenizer: GlmTokenizer,
        options: GenerationOptions,
        thinking: bool | None = None,
        system: str | None = None,
    ) -> None:
        self._conversation, self._tokenizer, self._options = Conversation(model), tokenizer, options
        self.max_length = model.info.max_length
        self._room = self.max_length - options.max_new_tokens
        self._messages: list[Message] = []
        self._thinking: bool | None = None
        self._system: str | None = None
        self._left_out = 0
        self.thinking, self.system = thinking, system

    def __repr__(self) -> str:
        return f"<Chat of {len(self._messages)} messages>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns that the next one follows; the system message is none of them."""
        return tuple(self._messages)

    @property
    def left_out(self) -> int:
        """How many of the oldest turns the last one no longer had room for: question and answer are two."""
        return self._left_out

    @property
    def thinking(self) -> bool | None:
        """Whether the model is to think before it answers, from the next turn on; None for the template's default."""
        return self._thinking

    @thinking.setter
    def thinking(self, thinking: bool | None) -> None:
        require_thinking(self._tokenizer, thinking)
        self._thinking = thinking

    @property
    def system(self) -> str | None:
        """What the model is told before the first turn; None for nothing."""
        return self._system

    @system.setter
    def system(self, system: str | None) -> None:
        if system is not None:
            require_system(self._tokenizer, system, self._thinking)
        self._system = system

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self._messages = []

    def say(self, text: str) -> Iterator[str]:
        """Stream the answer. A turn joins the conversation once its answer was read to the end.

        Where the context is full, the oldest turns are left out, and forgotten: see :attr:`left_out`.

        Raises:
            CheckpointError: the bundle has no chat template.
            GenerationError: the message alone exceeds the model's ``max_length``.
        """
        asked = [*self._messages, Message("user", text)]
        prompt, left_out = self._prompt(asked), 0
        while len(prompt) > self._room and left_out + 2 < len(asked):
            left_out += 2
            prompt = self._prompt(asked[left_out:])
        ids = self._conversation.answer(prompt, self._options)
        self._left_out = left_out
        return self._answer(asked[left_out:], ids)

    def _answer(self, asked: list[Message], ids: Iterator[int]) -> Iterator[str]:
        pieces = []
        for piece in stream_text(ids, StreamDecoder(self._tokenizer)):
            pieces.append(piece)
            yield piece
        self._messages = [*asked, Message("assistant", "".join(pieces))]

    def _prompt(self, turns: list[Message]) -> list[int]:
        before = [] if self._system is None else [Message("system", self._system)]
        return self._tokenizer.apply_chat_template([*before, *turns], thinking=self._thinking)


def require_thinking(tokenizer: GlmTokenizer, thinking: bool | None) -> None:
    """That the chat template has a switch for thinking, unless it is left to the template.

    Raises:
        GenerationError: it has none.
        CheckpointError: there is no chat template.
    """
    if thinking is not None and _tried(tokenizer, [Message("user", "")], thinking) is None:
        raise _refused("thinking", "has no switch for thinking")


def require_system(tokenizer: GlmTokenizer, system: str, thinking: bool | None) -> None:
    """That the chat template takes a system message, and does not leave it out.

    Raises:
        GenerationError: it does not.
        CheckpointError: there is no chat template.
    """
    alone = [Message("user", "")]
    with_system = _tried(tokenizer, [Message("system", system), *alone], thinking)
    if with_system in (None, _tried(tokenizer, alone, thinking)):
        raise _refused("system", "takes no system message")


def _tried(tokenizer: GlmTokenizer, messages: list[Message], thinking: bool | None) -> list[int] | None:
    """The prompt, tried now rather than at the first turn; None where the template does not take it."""
    if tokenizer.chat_template is None:
        return tokenizer.apply_chat_template(messages)  # which says so
    try:
        return tokenizer.apply_chat_template(messages, thinking=thinking)
    except CheckpointError:
        return None


def _refused(name: str, lacks: str) -> GenerationError:
    return GenerationError(
        f"the model's chat template {lacks}",
        where=Parameter(name),
        expected="a model that was trained with it",
        hint=f"leave `{name}` out",
    )
