"""Text from a stream of token ids."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol


class TextDecoder(Protocol):
    """Decodes token ids one by one; a tokenizer's stream decoder."""

    def push(self, index: int) -> str:
        """The text that an id completes; may be empty."""
        ...

    def finish(self) -> str:
        """The remaining text after the last id."""
        ...


def stream_text(ids: Iterable[int], decoder: TextDecoder, stop: Sequence[str] = ()) -> Generator[str, None, bool]:
    """Stream the answer's text, cut before the first of the ``stop`` strings.

    Text that may be the beginning of a stop string is held back until that is decided. ``ids`` are consumed no further
    than the stop string.

    Returns:
        to a ``yield from``: whether a stop string ended it.
    """
    held = ""
    for piece in _pieces(ids, decoder):
        held += piece
        ends = [start for start in (held.find(text) for text in stop) if start >= 0]
        if ends:
            if min(ends):
                yield held[: min(ends)]
            return True
        certain = len(held) - max((_overlap(held, text) for text in stop), default=0)
        if certain:
            yield held[:certain]
        held = held[certain:]
    if held:
        yield held
    return False


def _pieces(ids: Iterable[int], decoder: TextDecoder) -> Iterator[str]:
    for token in ids:
        yield decoder.push(token)
    yield decoder.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of ``text`` that is a prefix of ``stop``."""
    return max((n for n in range(1, min(len(text), len(stop)) + 1) if text.endswith(stop[:n])), default=0)
