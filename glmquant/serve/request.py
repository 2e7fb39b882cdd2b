"""What a client may ask for: each field of OpenAI's chat completions is taken, refused, or has no effect on an answer.

A field of which only one value is taken here may be sent with that value; any other would ask for something else than
what is answered.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, model_validator

from glmquant.core.untrusted import parse_json
from glmquant.errors import CheckpointError
from glmquant.serve.wire import BAD_REQUEST, ApiError

MOST_FIELDS: Final = 64
MOST_STOPS: Final = 16
LONGEST_STOP: Final = 256
LARGEST: Final = 2**63 - 1
LONGEST_NAME: Final = 100


def _told(values: Any) -> Any:
    """Without fields that say nothing."""
    if not isinstance(values, dict):
        return values
    if len(values) > MOST_FIELDS:
        raise ValueError(f"at most {MOST_FIELDS} fields, and there are {len(values):,}")
    return {name: value for name, value in values.items() if value not in (None, [])}


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    _drop = model_validator(mode="before")(_told)


def _text(content: Any) -> Any:
    """Parts of text are joined by line breaks; a part of another kind is refused."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise ValueError('every part must be {"type": "text", "text": …}; this model reads nothing else')
        if not isinstance(part["text"], str):
            raise ValueError("the text of a part must be a string")
    return "\n".join(part["text"] for part in content)


def _several(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Turn(_Object):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]


class StreamOptions(_Object):
    include_usage: bool = False
    include_obfuscation: bool = False


class TemplateOptions(_Object):
    """What is handed to the chat template, by the name that other servers have for it."""

    enable_thinking: bool | None = None


class _PlainText(_Object):
    type: Literal["text"]


_Empty = Annotated[dict[str, Any], Field(max_length=0)]
_One = Annotated[int, Field(ge=1, le=1)]
_Zero = Annotated[float, Field(ge=0, le=0)]


class _Fixed(_Object):
    """Fields of which one value is taken."""

    n: _One = 1
    logprobs: Literal[False] = False
    top_logprobs: Annotated[int, Field(ge=0, le=0)] = 0
    presence_penalty: _Zero = 0
    frequency_penalty: _Zero = 0
    logit_bias: _Empty = {}
    tool_choice: Literal["none", "auto"] = "none"
    function_call: Literal["none", "auto"] = "none"
    response_format: _PlainText = _PlainText(type="text")
    modalities: list[Literal["text"]] = ["text"]
    store: Literal[False] = False


class ChatRequest(_Fixed):
    """The body of a request.

    Attributes:
        top_k, repetition_penalty, chat_template_kwargs: as other servers of open models take them.
    """

    messages: Annotated[list[Turn], FailFast(), Field(min_length=1)]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=LARGEST)
    max_completion_tokens: int | None = Field(None, ge=1, le=LARGEST)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, le=LARGEST)
    repetition_penalty: float | None = None
    seed: int | None = Field(None, le=LARGEST)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
        FailFast(),
        Field(max_length=MOST_STOPS),
        BeforeValidator(_several),
    ] = []
    chat_template_kwargs: TemplateOptions = TemplateOptions()

    # Without effect on the answer.
    user: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    parallel_tool_calls: Any = None

    @property
    def new_tokens(self) -> int | None:
        """The most tokens of the answer; None where the client does not say."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream alone")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


def parse_request(body: bytes) -> ChatRequest:
    """Raises ApiError: no JSON object, or the first field that is wrong or not supported."""
    try:
        values = parse_json(body, "the body")
    except CheckpointError as error:
        raise ApiError(BAD_REQUEST, f"the body is {error.what}", code="invalid_json") from None
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> ApiError:
    """The first of what is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind, place = first["type"], [str(part)[:LONGEST_NAME] for part in first["loc"]]
    param = ".".join(place) or None
    if kind == "missing":
        message, code = f"{param} is missing", "missing_required_parameter"
    elif kind == "extra_forbidden":
        message, code = f"{param} is not supported by this server", "unsupported_parameter"
    elif place and place[0] in _Fixed.model_fields:
        message, code = f"this value of {param} is not supported by this server", "unsupported_value"
    else:
        said = first["msg"].removeprefix("Value error, ")
        message, code = f"{param}: {said}" if param else said, "invalid_value"
    return ApiError(BAD_REQUEST, message, param=param, code=code)
