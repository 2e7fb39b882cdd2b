"""Text from a stream of token ids."""

from collections.abc import Callable, Iterable, Iterator, Sequence

REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence decodes to
CONTEXT = 8  # ids decoded again with the new ones, since a token's text may depend on those before it


def stream_text(ids: Iterable[int], decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> Iterator[str]:
    """Pieces of the answer's text as soon as they are certain; together they are the text up to the first ``stop``.

    Bytes of an incomplete character wait for the rest of it, and the beginning of what may become a stop string waits
    until it is known. ``ids`` are taken no further than the stop string.
    """
    held = ""
    for piece in _pieces(ids, decode):
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


def _pieces(ids: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    taken: list[int] = []
    context: list[int] = []
    for token in ids:
        taken.append(token)
        text = _after(context, taken, decode)
        if text and not text.endswith(REPLACEMENT):
            yield text
            context, taken = (context + taken)[-CONTEXT:], []
    rest = _after(context, taken, decode)
    if rest:
        yield rest


def _after(context: list[int], new: list[int], decode: Callable[[Sequence[int]], str]) -> str:
    return decode(context + new)[len(decode(context)) :]


def _overlap(text: str, stop: str) -> int:
    """The longest end of ``text`` that ``stop`` starts with."""
    return max((n for n in range(1, min(len(text), len(stop)) + 1) if text.endswith(stop[:n])), default=0)
