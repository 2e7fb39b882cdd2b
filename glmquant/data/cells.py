"""Conversations in the cells of tables, as JSON or as Python writes lists, and numpy arrays, of dictionaries."""

import ast
import json
import re
import warnings
from typing import Any, Final

LARGEST_LITERAL: Final = 4 << 20
"""Characters; a syntax tree takes some hundred times as much."""
DEEPEST_LITERAL: Final = 20
"""Brackets within each other: the parser's stack is finite."""
TURNS: Final = re.compile(r"\s*\[\s*\{\s*[\"'](\w+)[\"']\s*:")
KEYS: Final = frozenset(("role", "from", "content", "value"))
_STRING: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_STRING_OR_GAP: Final = re.compile(rf"{_STRING}|(?<=\}})\s+(?=\{{)", re.DOTALL)
"""A string, or what stands between two dictionaries of a numpy array."""
_LITERAL: Final = re.compile(r"[\s\w.,:+\-\[\]{}()']*")
_TWICE: Final = re.compile(r"'\s*'|[+\-]\s*[+\-]")
"""Strings that Python would join, and signs that it would nest."""


def turns_in_cell(text: str) -> list[Any] | None:
    """The list of turns that a cell's text is; None where it is none."""
    if not looks_like_turns(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = python_literal(text)
    return value if isinstance(value, list) else None


def looks_like_turns(text: str) -> bool:
    """Whether a text starts as a list of turns does."""
    found = TURNS.match(text)
    return found is not None and found[1].casefold() in KEYS


def python_literal(text: str) -> Any:
    """The value that Python or numpy writes so; None where it is none, too long or too deep."""
    if len(text) > LARGEST_LITERAL:
        return None
    shape = _STRING_OR_GAP.sub(lambda found: "'" if found[0][:1] in "'\"" else ",", text)
    if not _LITERAL.fullmatch(shape) or _TWICE.search(shape) or _depth(shape) > DEEPEST_LITERAL:
        return None
    literal = _STRING_OR_GAP.sub(lambda found: found[0] if found[0][:1] in "'\"" else ",", text)
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            return ast.literal_eval(literal.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _depth(shape: str) -> int:
    depth = deepest = 0
    for mark in shape:
        depth += (mark in "[{(") - (mark in "]})")
        deepest = max(deepest, depth)
    return deepest
