"""What two captures of one session share: what differs between two machines or two moments is taken out.

In this order: a model's answers; the time left, and bars; each number but an exit code, with its unit of
time or size; and how far anything is moved by a number's width, spaces and line ends.
"""

import re
from typing import Final

ANSWER: Final = re.compile(r"^(> [^/\n].*\n)(?:(?!> ).*\n)+", re.MULTILINE)
LEFT: Final = re.compile(r"about [\d,.]+ (?:s|min|h) left")
BAR: Final = re.compile(r"[━╸╺]+")
NUMBER: Final = re.compile(r"(?<!exit code )(?<!\w)-?\d[\d,.:/]*(?:e[-+]?\d+)?(?:%| (?:s|min|h|kB|MB|GB)\b)?(?!\w)")


def normal(capture: str) -> str:
    """The words that stay."""
    text = ANSWER.sub(r"\1(answer) ", capture)
    for pattern, instead in ((LEFT, ""), (BAR, ""), (NUMBER, "#")):
        text = pattern.sub(instead, text)
    return " ".join(text.split())
