"""Conversations as data sets keep them, turned into turns: ShareGPT, ``messages``, Alpaca, question and answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glmquant.core.protocols import Turn
from glmquant.data.cells import python_literal, turns_in_cell
from glmquant.data.fields import Meant, checked
from glmquant.data.record import Record
from glmquant.errors import DataError

ROLES: Final = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "ipython"), "observation"),
    "function_call": "function_call",
}
"""A turn's role by the name that data sets give it."""
FOLLOWS: Final = {
    "user": ("", "system", "assistant"),
    "assistant": ("user", "observation"),
    "observation": ("assistant", "observation"),
    "system": ("", "system"),
}
"""The roles that a turn may follow; empty for the beginning."""


@dataclass(frozen=True)
class Said:
    """A turn of a conversation: :class:`glmquant.core.protocols.Turn`."""

    role: str
    content: str
    metadata: str = ""


def turns_of(record: Record, meant: Meant, where: str) -> list[Turn] | None:
    """The turns of a record that holds a conversation; None where it holds none.

    Raises:
        DataError: a turn that cannot be understood, or turns that do not follow each other.
    """
    fields = record.fields
    if meant.answer is not None:
        turns = _pair(fields, meant, where)
    else:
        value = fields.get(meant.text)
        turns = list(_listed(_unpacked(value), where)) if value else []
    if not any(turn.role == "assistant" and (turn.content or turn.metadata) for turn in turns):
        return None
    system = _beside(fields, meant, "system")
    if isinstance(system, str) and system.strip() and turns[0].role != "system":
        turns.insert(0, Said("system", checked(system, "system", where)))
    _require_order(turns, where)
    return list[Turn](turns)


def tools_of(record: Record, meant: Meant, where: str) -> list[dict[str, Any]]:
    """The tools that a conversation describes, as OpenAI's API has them; data sets also keep the function alone, and
    the list as text.

    Raises:
        DataError: no list of descriptions.
    """
    value = _beside(record.fields, meant, "tools")
    value = value.strip() if isinstance(value, str) else value
    tools = (_parsed(value) if isinstance(value, str) else value) if value else []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(
            f"the tools are no list of descriptions: {str(value)[:60]!r}",
            where=where,
            expected='[{"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}, …]',
        )
    checked(json.dumps(tools, ensure_ascii=False, default=str), "tools", where)
    return [
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool} for tool in tools
    ]


def _unpacked(value: Any) -> Any:
    """A list of turns; columns of tables hold it as text."""
    return turns_in_cell(value) or value if isinstance(value, str) else value


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return python_literal(value)


def _beside(fields: Mapping[str, Any], meant: Meant, name: str) -> Any:
    found = meant.company(name)
    return None if found is None else fields.get(found)


def _pair(fields: Mapping[str, Any], meant: Meant, where: str) -> list[Said]:
    question, answer = (_text(fields.get(name), name, where) for name in (meant.text, str(meant.answer)))
    if more := _text(_beside(fields, meant, "input"), "input", where):
        question = f"{question}\n{more}"
    if not question or not answer:
        return []
    turns: list[Said] = []
    history = _beside(fields, meant, "history") or ()
    history = _parsed(history) if isinstance(history, str) else history
    pairs = isinstance(history, Sequence) and not isinstance(history, str)
    if not pairs or not all(isinstance(past, list | tuple) and len(past) == 2 for past in history):
        raise DataError("history is no list of questions and answers", where=where, expected='[["…", "…"]]')
    for past in history:
        asked, answered = (_text(said, "history", where) for said in past)
        turns += [Said("user", asked), Said("assistant", answered)]
    return [*turns, Said("user", question), Said("assistant", answer)]


def _text(value: Any, name: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"field {name!r} is {type(value).__name__}, not text", where=where, expected="text")
    return checked(value, name, where)


def _listed(turns: Any, where: str) -> Iterator[Said]:
    if not isinstance(turns, list):
        raise DataError(
            f"the conversation is {type(turns).__name__}, not a list of turns",
            where=where,
            expected='[{"role": "user", "content": "…"}, …], or with "from" and "value"',
        )
    for number, turn in enumerate(turns, start=1):
        yield from _turn(turn, f"{where}, turn {number}")


def _turn(turn: Any, where: str) -> Iterator[Said]:
    if not isinstance(turn, dict):
        raise DataError(f"the turn is {type(turn).__name__}, not an object", where=where, expected='{"role": …}')
    turn = _with_folded_keys(turn)
    given = _first(turn, "role", "from")
    role = ROLES.get(given.strip().casefold()) if isinstance(given, str) else None
    if role is None:
        raise DataError(f"the turn's role is {str(given)[:60]!r}", where=where, expected=f"one of: {', '.join(ROLES)}")
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if not calls and not {"content", "value"} & set(turn):
        raise DataError(
            "the turn has neither content nor value",
            where=where,
            expected='its text in "content" or "value"',
            hint=f"rename the one that holds its text; its fields are: {', '.join(map(str, turn))[:200]}",
        )
    content = _content(_first(turn, "content", "value"), where)
    if not isinstance(calls, list):
        raise DataError(f"tool_calls is {type(calls).__name__}, not a list", where=where, expected="a list of calls")
    if role == "function_call":
        yield _call(_parsed(content), where)
        return
    if content or not calls:
        yield Said(role, content)
    for call in calls:
        yield _call(call, where)


def _with_folded_keys(turn: Mapping[Any, Any]) -> dict[str, Any]:
    """A turn with its keys in lower case; one that has such a key already keeps its value."""
    return {str(key).strip().casefold(): value for key, value in turn.items()} | {
        str(key): value for key, value in turn.items()
    }


def _first(turn: Mapping[str, Any], *keys: str) -> Any:
    """The first value that is not null."""
    return next((turn[key] for key in keys if turn.get(key) is not None), None)


def _content(content: Any, where: str) -> str:
    """The text of a turn; its parts joined, where it is a list of them."""
    if not isinstance(content, list):
        return _text(content, "content", where)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if kind == "str":
            texts.append(_text(part, "content", where))
        elif kind == "text":
            texts.append(_text(part.get("text"), "text", where))
        else:
            raise DataError(f"a part of the turn is {str(kind)[:60]!r}", where=where, expected="text alone")
    return "".join(texts)


def _call(call: Any, where: str) -> Said:
    """A tool's call as GLM writes it: its name behind the role, its arguments below."""
    called = call.get("function", call) if isinstance(call, dict) else None
    called = called if isinstance(called, dict) else {}
    name = called.get("name")
    if not isinstance(name, str):
        raise DataError("a tool call without a name", where=where, expected='{"name": "…", "arguments": {…}}')
    arguments = called.get("arguments", called.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Said("assistant", checked(arguments, "arguments", where), checked(name, "name", where))


def _require_order(turns: Sequence[Said], where: str) -> None:
    before = ""
    for number, turn in enumerate(turns, start=1):
        calls = turn.role == before == "assistant" and bool(turn.metadata)
        if before not in FOLLOWS[turn.role] and not calls:
            behind = f"behind {before!r}" if before else "at the beginning"
            raise DataError(
                f"turn {number} is {turn.role!r}, {behind}",
                where=where,
                expected="system turns, then user and assistant in turn; tools answer the assistant",
                hint="mend the record, or leave it out",
            )
        before = turn.role
