"""The model that answers: from a request to token ids, and from there to pieces of text. One answer at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from glmquant.errors import GenerationError, GlmQuantError, Parameter
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, StreamDecoder
from glmquant.runtime.chat import require_system, require_thinking
from glmquant.runtime.description import source_name
from glmquant.runtime.generate import Conversation
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import ANY_SEED, GenerationOptions
from glmquant.runtime.session import GRAPH_FILE, Provider
from glmquant.runtime.text import stream_text
from glmquant.runtime.tokenizer import load_bundle_tokenizer
from glmquant.serve.request import ChatRequest
from glmquant.serve.wire import BAD_REQUEST, ApiError

ROLES: Final = {"developer": "system"}
"""OpenAI's later name."""

PARAMS: Final = {"system": "messages", "thinking": "chat_template_kwargs.enable_thinking"}
CHARACTERS_A_TOKEN: Final = 32
"""More than texts have on average; what is longer by that is not worth the seconds of tokenizing it."""

SAMPLING: Final = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


class UnwantedError(Exception):
    """Nobody waits for the rest of an answer."""


@dataclass(frozen=True)
class Question:
    """A conversation as token ids, and how it is answered."""

    ids: tuple[int, ...]
    options: GenerationOptions
    stop: tuple[str, ...]


class Engine:
    """A bundle, its tokenizer, and one KV cache: what two conversations that follow each other begin with alike is not
    computed again, unless a seed asks for the same answer each time.

    Args:
        options: for what a request leaves open; an answer has at most the ``max_new_tokens`` of it then.
        thinking: whether the model is to think before it answers, likewise; None for the template's own default.

    Attributes:
        name: what clients call the model.
        created: when the bundle was, in seconds since 1970.

    Raises:
        GenerationError: the chat template has no switch for thinking.
        CheckpointError: the bundle has no chat template.
    """

    def __init__(
        self,
        model: OnnxModel,
        tokenizer: GlmTokenizer,
        name: str,
        created: int,
        options: GenerationOptions,
        thinking: bool | None,
    ) -> None:
        tokenizer.apply_chat_template([Message("user", "")])
        require_thinking(tokenizer, thinking)
        self.name, self.created, self.max_length = name, created, model.info.max_length
        self._conversation, self._tokenizer = Conversation(model), tokenizer
        self._options, self._thinking = options, thinking

    @classmethod
    def open(cls, bundle: Path, options: GenerationOptions, thinking: bool | None, provider: Provider) -> "Engine":
        """Open a bundle. Raises as :meth:`OnnxModel.open` and the constructor."""
        model, created = OnnxModel.open(bundle, provider=provider), int((bundle / GRAPH_FILE).stat().st_mtime)
        return cls(model, load_bundle_tokenizer(bundle), source_name(bundle), created, options, thinking)

    def question(self, request: ChatRequest) -> Question:
        """Raises ApiError: what this model does not take, or has no room for."""
        thinking = request.chat_template_kwargs.enable_thinking
        given = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
        try:
            ids = self._prompt(request, self._thinking if thinking is None else thinking)
            options = replace(self._options, max_new_tokens=self._room(len(ids), request.new_tokens), **given)
        except GlmQuantError as error:
            raise _refused(error) from None
        return Question(tuple(ids), options, tuple(request.stop))

    def answer(self, question: Question, is_wanted: Callable[[], bool]) -> "Answer":
        """An answer, whose pieces are generated as they are asked for.

        Args:
            is_wanted: asked after every token; where it is not, :class:`UnwantedError` is raised.
        """
        if question.options.seed not in (None, ANY_SEED):
            self._conversation.forget()
        ids = self._conversation.answer(question.ids, question.options)
        return Answer(question, ids, StreamDecoder(self._tokenizer), is_wanted)

    def _prompt(self, request: ChatRequest, thinking: bool | None) -> list[int]:
        length = sum(1 + len(turn.content) for turn in request.messages)
        if length > CHARACTERS_A_TOKEN * self.max_length or len(request.messages) > self.max_length:
            raise self._too_long(f"{len(request.messages):,} messages of {length:,} characters do not fit")
        require_thinking(self._tokenizer, thinking)
        messages = [Message(ROLES.get(turn.role, turn.role), turn.content) for turn in request.messages]
        for message in messages:
            if message.role == "system":
                require_system(self._tokenizer, message.content, thinking)
        return self._tokenizer.apply_chat_template(messages, thinking=thinking)

    def _room(self, prompt: int, asked: int | None) -> int:
        """How many tokens the answer may have."""
        room = self.max_length - prompt
        if room < 1:
            raise self._too_long(f"the messages have {prompt:,}, which leaves none for an answer")
        if asked is not None and asked > room:
            raise self._too_long(f"the messages have {prompt:,}, and {asked:,} more are asked for", "max_tokens")
        return asked or min(self._options.max_new_tokens, room)

    def _too_long(self, why: str, param: str = "messages") -> ApiError:
        message = f"the model's context is {self.max_length:,} tokens; {why}"
        return ApiError(BAD_REQUEST, message, param=param, code="context_length_exceeded")


class Answer:
    """Pieces of text; what the answer took and how it ended is known once they are read.

    Attributes:
        prompt_tokens, completion_tokens: so far.
        finish_reason: ``stop``: the model ended it, or a stop string did; ``length``: there was no more room.
    """

    def __init__(
        self, question: Question, ids: Iterator[int], decoder: StreamDecoder, is_wanted: Callable[[], bool]
    ) -> None:
        self.prompt_tokens, self.completion_tokens = len(question.ids), 0
        self.finish_reason: Literal["stop", "length"] = "stop"
        self._question, self._ids, self._decoder, self._is_wanted = question, ids, decoder, is_wanted

    def pieces(self) -> Iterator[str]:
        """Raises GlmQuantError where the model fails, UnwantedError."""
        stopped = yield from stream_text(self._counted(), self._decoder, self._question.stop)
        if not stopped and self.completion_tokens == self._question.options.max_new_tokens:
            self.finish_reason = "length"

    def _counted(self) -> Iterator[int]:
        for token in self._ids:
            self.completion_tokens += 1
            if not self._is_wanted():
                raise UnwantedError
            yield token


def _refused(error: GlmQuantError) -> ApiError:
    """What the model does not take, in the API's words."""
    name = error.where.name if isinstance(error.where, Parameter) else "messages"
    expected = f"; expected {error.expected}" if error.expected and isinstance(error, GenerationError) else ""
    return ApiError(BAD_REQUEST, error.what + expected, param=PARAMS.get(name, name), code="invalid_value")
