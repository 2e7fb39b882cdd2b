"""Tools and their calls, in the form that a chat template reads.

Templates of GLM-4.5 and later read messages as OpenAI's API has them: an assistant's ``tool_calls``, and answers of the
role ``tool``. Earlier ones, and turns inside, have a call as a turn of its own, the tool's name behind the role, and
answers of the role ``observation``.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from glmquant.core.protocols import Turn

TOOL_CALLS: Final = "tool_calls"
"""What a template names that reads them."""


def messages_for(template: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as the template reads them; an assistant's words and calls behind each other become one message."""
    if TOOL_CALLS not in template:
        return [_as_written(turn) for turn in turns]
    messages: list[dict[str, Any]] = []
    calling = False
    for turn in turns:
        if turn.role != "assistant" or not turn.metadata:
            messages.append({"role": "tool" if turn.role == "observation" else turn.role, "content": turn.content})
            calling = turn.role == "assistant"
            continue
        if not calling:
            messages.append({"role": "assistant", "content": ""})
        messages[-1].setdefault(TOOL_CALLS, []).append(_call(turn))
        calling = True
    return messages


def _as_written(turn: Turn) -> dict[str, Any]:
    message = {"role": turn.role, "content": turn.content}
    return message | {"metadata": turn.metadata} if turn.metadata else message


def _call(turn: Turn) -> dict[str, Any]:
    """Arguments as values, which templates walk through; what is no JSON object stays text."""
    try:
        arguments = json.loads(turn.content)
    except (ValueError, RecursionError):
        arguments = turn.content
    arguments = arguments if isinstance(arguments, dict) else turn.content
    return {"type": "function", "function": {"name": turn.metadata, "arguments": arguments}}
