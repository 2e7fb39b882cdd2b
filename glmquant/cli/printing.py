"""The one way to stdout and stderr: what is printed there is inert (:mod:`glmquant.inert`), wherever it comes from.

Only bars and Markdown on a terminal are drawn by Rich (:mod:`glmquant.cli.terminal`), from text made inert before.
"""

import json
import sys
from collections.abc import Iterable
from typing import TextIO

from glmquant.inert import InertStream, inert


def show(text: object, *, end: str = "\n", to: TextIO | None = None) -> None:
    """Prints ``text``, on stdout unless said otherwise."""
    print(inert(str(text)), end=end, file=sys.stdout if to is None else to, flush=to is not None)


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
