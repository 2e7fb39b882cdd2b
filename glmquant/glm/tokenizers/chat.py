"""Chat prompts: what each family's publisher feeds its model, as Jinja text, and how a template becomes token ids.

Only the template's own special tokens become special ids. Those a user writes into a message stay text: they are broken
up before rendering and restored in the text between the special tokens.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glmquant.core.protocols import Turn
from glmquant.errors import CheckpointError
from glmquant.glm.config import Family
from glmquant.glm.tokenizers.tool_messages import messages_for

LONGEST_TEMPLATE: Final = 2**17

FAILURES: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, AssertionError)
"""What Python code that a template became may raise, beside Jinja's own errors."""


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: ``system``, ``user``, ``assistant``, or ``observation`` for a tool's answer.
        content: the text.
        metadata: ChatGLM3 and GLM-4: what follows the role token, such as the name of the tool an assistant calls.
    """

    role: str
    content: str
    metadata: str = ""


_ROUNDS = (
    "[gMASK]sop{% for message in messages %}"
    "{% if message['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('turns must alternate between user and assistant, user first') }}{% endif %}"
    "{% if message['role'] == 'user' %}[Round {{ loop.index0 // 2 + 1 }}]\n\n问：{{ message['content'] }}\n\n答："
    "{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}"
)

_CHECK_ROLE = (
    "{% if message['role'] not in ['system', 'user', 'assistant', 'observation'] %}"
    "{{ raise_exception('the role must be system, user, assistant or observation') }}{% endif %}"
)

# The publisher encodes "metadata\n" and the content apart, and SentencePiece starts each with a space. A system message
# may bring a list of ``tools``, written after its content.
_ROLES_SENTENCEPIECE = (
    "[gMASK]sop{% for message in messages %}" + _CHECK_ROLE + "<|{{ message['role'] }}|>{{ message['metadata'] }}\n"
    "{% if message['content'] or message['tools'] %} {% endif %}{{ message['content'] }}"
    "{% if message['tools'] %}{{ '\n' + message['tools'] | tojson(indent=4) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_ROLES_TIKTOKEN = (
    "[gMASK]<sop>{% for message in messages %}" + _CHECK_ROLE + "<|{{ message['role'] }}|>{{ message['metadata'] }}\n"
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TEMPLATES: Final[dict[Family, str]] = {
    "chatglm2": _ROUNDS,
    "codegeex2": _ROUNDS,
    "chatglm3": _ROLES_SENTENCEPIECE,
    "glm-4": _ROLES_TIKTOKEN,
}
"""Families that were published without a template file."""


THINKING: Final = "enable_thinking"
"""The variable by which templates of models that can think switch it on or off."""


def render(
    template: str,
    messages: Sequence[Message],
    special_tokens: dict[str, str],
    add_generation_prompt: bool = True,
    thinking: bool | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The prompt for ``messages``, ending where the assistant's turn begins unless ``add_generation_prompt`` is false.

    Args:
        template: Jinja text, run in a sandbox, with the names that transformers gives it.
        messages: the turns, oldest first; at least one. The template gets them in the form that it reads:
            :func:`glmquant.glm.tokenizers.tool_messages.messages_for`.
        special_tokens: ``eos_token`` and the like, which templates may name.
        thinking: whether the model is to think before it answers; None for the template's own default.
        tools: descriptions, as OpenAI's API has them.

    Raises:
        CheckpointError: a template that does not compile or run, that refuses the messages, that has no switch for
            thinking, or no place for tools.
    """
    return _rendered(template, messages_for(template, messages), special_tokens, add_generation_prompt, thinking, tools)


def takes_tools(template: str) -> bool:
    """Whether the template has a place for descriptions of tools. Raises CheckpointError as :func:`check_compiles`."""
    from glmquant.glm.tokenizers.sandbox import budgeted, variables

    check_compiles(template)
    with budgeted():
        return "tools" in variables(template)


def _rendered(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: dict[str, str],
    add_generation_prompt: bool,
    thinking: bool | None,
    tools: Sequence[Mapping[str, Any]],
) -> str:
    if not messages:
        raise CheckpointError("there is no message to answer", where="messages", expected="at least one turn")
    check_compiles(template)
    switch = {} if thinking is None else {THINKING: thinking}
    if switch and THINKING not in template:
        raise CheckpointError(
            "the chat template has no switch for thinking",
            where="chat_template",
            expected=f"a template that reads {THINKING}, as those of GLM-4.5 and later do",
            hint="leave thinking to the template",
        )
    if tools and not takes_tools(template):
        raise CheckpointError(
            "the chat template has no place for tools", where="chat_template", expected="a template that reads `tools`"
        )
    from jinja2 import TemplateError

    from glmquant.glm.tokenizers.sandbox import budgeted, compiled

    try:
        with budgeted():
            text: str = compiled(template).render(
                messages=list(messages),
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **switch,
                **special_tokens,
            )
    except (TemplateError, MemoryError, *FAILURES) as error:
        raise CheckpointError(
            f"the chat template does not take these messages: {_told(error)}",
            where="chat_template",
            expected="turns that the model was trained on",
        ) from error
    return text


def check_compiles(template: str, where: str = "chat_template") -> None:
    """That ``template`` is Jinja as chat templates are written.

    Args:
        where: the file and field that it is from, for errors.

    Raises:
        CheckpointError: it is not, or far too long.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    from glmquant.glm.tokenizers.sandbox import budgeted, compiled

    if len(template) > LONGEST_TEMPLATE:
        raise CheckpointError(
            "the chat template is far too long", where=where, expected=f"at most {LONGEST_TEMPLATE} characters"
        )
    try:
        with budgeted():
            compiled(template)
    except (TemplateError, SyntaxError, MemoryError, *FAILURES) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise CheckpointError(
            f"the chat template does not compile: {_told(error)}",
            where=f"{where}{line}",
            expected="Jinja with what transformers adds to it (generation, raise_exception, strftime_now, tojson)",
            hint="mend it there; the base model's template, saved as chat_template.jinja, takes its place",
        ) from error


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class TemplateEncoder:
    """Turns rendered templates into ids.

    Args:
        specials: special token text to id.
        whole_words: those of them that count only where no letter or digit touches them (``sop``).
        encode: text to ids, special tokens in it read as text.
    """

    def __init__(
        self, specials: dict[str, int], whole_words: frozenset[str], encode: Callable[[str], list[int]]
    ) -> None:
        self._specials, self._encode = specials, encode
        longest_first = sorted(specials, key=lambda token: (-len(token), token))
        bounded = {token: rf"(?<!\w){re.escape(token)}(?!\w)" for token in whole_words}
        self._pattern = re.compile("|".join(f"({bounded.get(t) or re.escape(t)})" for t in longest_first) or r"(?!)")

    def ids(
        self,
        template: str,
        messages: Sequence[Turn],
        special_tokens: dict[str, str],
        add_generation_prompt: bool = True,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Token ids of the prompt; see :func:`render` for the errors."""
        given = messages_for(template, messages)
        mark = _unused_mark([given, tools])
        broken = [self._break(message, mark) | {"role": message["role"]} for message in given]
        described = [self._break(tool, mark) for tool in tools]
        text = _rendered(template, broken, special_tokens, add_generation_prompt, thinking, described)
        ids: list[int] = []
        start = 0
        for match in self._pattern.finditer(text):
            ids += self._encode(text[start : match.start()].replace(mark, ""))
            ids.append(self._specials[match.group()])
            start = match.end()
        return ids + self._encode(text[start:].replace(mark, ""))

    def _break(self, value: Any, mark: str) -> Any:
        """``value`` with the mark in every special token of its strings."""
        if isinstance(value, str):
            return self._pattern.sub(lambda match: match.group()[0] + mark + match.group()[1:], value)
        if isinstance(value, Mapping):
            return {self._break(key, mark): self._break(part, mark) for key, part in value.items()}
        return [self._break(part, mark) for part in value] if isinstance(value, list) else value


def _strings(value: Any) -> Iterator[str]:
    """All strings within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in (*value.keys(), *value.values()) if isinstance(value, Mapping) else value:
            yield from _strings(part)


def _unused_mark(given: Any) -> str:
    """A character that no string of what is given holds, from those Unicode sets aside for internal use."""
    text = "".join(_strings(given))
    for point in range(0xFDD0, 0xFDF0):
        if chr(point) not in text:
            return chr(point)
    raise CheckpointError("the messages hold every character set aside for internal use", where="messages")
