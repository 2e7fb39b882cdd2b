"""The one way to stdout and stderr: what is printed there is inert (:mod:`glmquant.inert`), wherever it comes from.

Only bars and Markdown on a terminal are drawn by Rich (:mod:`glmquant.cli.terminal`), from text made inert before.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Final, TextIO

from rich.cells import cell_len

from glmquant.inert import InertStream, inert

WORD: Final = re.compile(r"\s*\S+\s*")
INDENT: Final = 4
DATA: Final = "%\r\n"
PROPERTY: Final = DATA + ":,"
"""What GitHub's runner reads as its own syntax in a command's message, and in a property's value."""


def show(text: object, *, end: str = "\n", to: TextIO | None = None) -> None:
    """Prints ``text``, on stdout unless said otherwise."""
    print(inert(str(text)), end=end, file=sys.stdout if to is None else to, flush=to is not None)


def show_folded(text: str, *, to: TextIO | None = None) -> None:
    """Prints ``text``; on a terminal, lines that are too long for it break between words."""
    if (sys.stdout if to is None else to).isatty():
        columns = shutil.get_terminal_size().columns
        text = "\n".join(folded(line, columns) for line in inert(text).split("\n"))
    show(text, to=to)


def folded(line: str, columns: int) -> str:
    """``line`` in as many as it needs, each but the first indented; a word that is longer stays whole."""
    lines, indent = [""], " " * (len(line) - len(line.lstrip()) + INDENT)
    for word in WORD.findall(line):
        if lines[-1].strip() and cell_len(lines[-1] + word.rstrip()) > columns:
            lines = [*lines[:-1], lines[-1].rstrip(), indent + word.lstrip()]
        else:
            lines[-1] += word
    return "\n".join(lines)


def show_command(name: str, properties: Mapping[str, str], message: str) -> None:
    """Prints a workflow command of GitHub's runner on stderr: the one thing that it is to act on, with nothing in it
    that would end it or begin another."""
    named = ",".join(f"{key}={_escaped(value, PROPERTY)}" for key, value in properties.items())
    print(f"::{name} {named}::{_escaped(message, DATA)}", file=sys.stderr, flush=True)


def _escaped(text: str, special: str) -> str:
    return re.sub(f"[{special}]", lambda found: f"%{ord(found[0]):02X}", inert(text))


def show_pieces(pieces: Iterable[str]) -> None:
    """Prints a text as it comes, and ends its line."""
    stream = InertStream()
    for piece in pieces:
        print(stream.push(piece), end="", flush=True)
    print()


def show_answer(pieces: Iterable[str], as_json: bool) -> None:
    """Prints an answer as it comes; as JSON in a line, once it is whole."""
    if as_json:
        show(json.dumps({"answer": "".join(pieces)}, ensure_ascii=False))
    else:
        show_pieces(pieces)
