"""Text of the code as Markdown that GitHub and mkdocs show alike."""

import re
from collections.abc import Iterable, Sequence

ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")
CODE = re.compile(r"`[^`]*`")


def prose(docstring: str) -> str:
    """A docstring's reStructuredText roles and literals as Markdown's code."""
    return ROLE.sub(r"`\1`", docstring).replace("``", "`")


def escaped(text: str) -> str:
    """Text that shows as it is; what stands in backquotes stays code."""
    pieces, end = [], 0
    for code in CODE.finditer(text):
        pieces += [_plain(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _plain(text[end:])])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    return re.sub(r"([\\*_\[\]`#])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
