"""What the rest of the house needs of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Turns text into token ids. Special tokens written in the text are text like any other."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What every input starts with (``[gMASK] sop`` for ChatGLM2); may be empty."""

    @property
    def sha256(self) -> str:
        """Identifies the tokenizer: equal digests, equal ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without the prefix."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` stand for."""
