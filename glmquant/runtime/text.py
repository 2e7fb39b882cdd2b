"""Text from a stream of token ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class TextDecoder(Protocol):
    """Turns ids into text one by one; a tokenizer's stream decoder."""

    def push(self, index: int) -> str:
        """The text that an id completes; may be empty."""
        ...

    def finish(self) -> str:
        """What is left when no more ids come."""
        ...


def stream_text(ids: Iterable[int], decoder: TextDecoder, stop: Sequence[str] = ()) -> Iterator[str]:
    """Pieces of the answer's text as soon as they are certain; together they are the text before the first ``stop``.

    The beginning of what may become a stop string waits until it is known. ``ids`` are taken no further than the stop
    string.
    """
    held = ""
    for piece in _pieces(ids, decoder):
        held += piece
        ends = [place for place in (held.find(text) for text in stop) if place >= 0]
        if ends:
            if min(ends):
                yield held[: min(ends)]
            return
        certain = len(held) - max((_overlap(held, text) for text in stop), default=0)
        if certain:
            yield held[:certain]
        held = held[certain:]
    if held:
        yield held


def _pieces(ids: Iterable[int], decoder: TextDecoder) -> Iterator[str]:
    for token in ids:
        yield decoder.push(token)
    yield decoder.finish()


def _overlap(text: str, stop: str) -> int:
    """The longest end of ``text`` that ``stop`` starts with."""
    return max((n for n in range(1, min(len(text), len(stop)) + 1) if text.endswith(stop[:n])), default=0)
