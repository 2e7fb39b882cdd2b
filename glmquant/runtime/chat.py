"""A conversation in the model's own chat template."""

from collections.abc import Iterator

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
    """

    def __init__(
        self, model: OnnxModel, tokenizer: GlmTokenizer, options: GenerationOptions, thinking: bool | None = None
    ) -> None:
        self._thinking = thinking
        self._conversation, self._tokenizer, self._options = Conversation(model), tokenizer, options
        self._messages: list[Message] = []

    def __repr__(self) -> str:
        return f"<Chat of {len(self._messages)} messages>"

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self._messages)

    def say(self, text: str) -> Iterator[str]:
        """Stream the answer. A turn joins the conversation once its answer was read to the end.

        Raises:
            CheckpointError: the bundle has no chat template, or one without a switch for thinking.
            GenerationError: the conversation exceeds the model's ``max_length``.
        """
        asked = [*self._messages, Message("user", text)]
        prompt = self._tokenizer.apply_chat_template(asked, thinking=self._thinking)
        ids = self._conversation.answer(prompt, self._options)
        pieces = []
        for piece in stream_text(ids, StreamDecoder(self._tokenizer)):
            pieces.append(piece)
            yield piece
        self._messages = [*asked, Message("assistant", "".join(pieces))]
