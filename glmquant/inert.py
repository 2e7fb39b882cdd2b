"""What a file says, made fit to be shown: neither a terminal nor a pipeline's runner acts on it.

Everything that is printed, logged or written into a report goes through here. What would be acted on is written as JSON
escapes it (``\\u001b``), so that JSON stays the same JSON.
"""

import re
from typing import Final

CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")
"""Controls of ECMA-48 but for tab and line feed, and Unicode's separators of lines and overrides of direction."""

COMMANDS: Final = re.compile(r"^[^\S\n]*(::)|(##(?:\[|vso\[|teamcity\[))", re.MULTILINE | re.IGNORECASE)
"""Of GitHub's runner, at the start of a line behind any white space; of Azure's and TeamCity's, anywhere."""

LONGEST_COMMAND: Final = 16
MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def inert(text: str) -> str:
    """``text`` with its lines and tabs, and nothing else that would be acted on."""
    return _escaped(text, "")


def inert_line(text: object) -> str:
    """``text`` in one line: a line break of a file's would look like a line of ours."""
    return inert(" ".join(str(text).split("\n")))


def inert_markdown(text: str) -> str:
    """One line in which nothing is Markdown's or HTML's either."""
    return MARKDOWN.sub(r"\\\1", inert(" ".join(text.split())))


class InertStream:
    """:func:`inert` for a text that comes in pieces."""

    def __init__(self) -> None:
        self._line = ""  # how the line that is begun ends, without white space at its start

    def push(self, piece: str) -> str:
        """What is to be shown of the next piece."""
        shown = _escaped(piece, self._line)
        line = (self._line + piece).rpartition("\n")[2].lstrip()
        self._line = line if len(line) <= LONGEST_COMMAND else "…" + line[-LONGEST_COMMAND:]
        return shown


def _escaped(text: str, before: str) -> str:
    """``text`` behind what was shown of its line."""
    start = len(before)
    whole = before + text
    for match in reversed([*COMMANDS.finditer(whole)]):
        at = max(match.start(1) if match[1] else match.start(2) + 1, start)
        if at < match.end():
            whole = whole[:at] + _code(whole[at]) + whole[at + 1 :]
    return CONTROLS.sub(lambda match: _code(match[0]), whole[start:])


def _code(char: str) -> str:
    return f"\\u{ord(char):04x}"
