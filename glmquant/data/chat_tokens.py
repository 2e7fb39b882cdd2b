"""A conversation as token ids, by the model's own chat template, and which of them are the assistant's.

Shape suffixes: T tokens.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmquant.core.protocols import Tokenizer, Turn
from glmquant.data.conversations import Said
from glmquant.data.sequences import Ids
from glmquant.errors import CheckpointError, DataError

log = logging.getLogger("glmquant")
Mask = NDArray[np.bool_]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Ending:
    """How an answer ends: tokens the template writes behind it, how many of them are the answer's own, and the token
    that ends the last one in their place, where none of them ends it."""

    closing: int
    own: int
    end: int | None


class ChatEncoder:
    """Encodes whole conversations; an answer's end is looked up once, on a conversation of a few letters.

    Descriptions of tools are left out where the template has no place for them, and that is told once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ending: _Ending | None = None
        self._told = False

    def ids(self, turns: Sequence[Turn], where: str, tools: Tools = ()) -> Ids:
        """The ids, int64 ``[T]``, the prefix among them; the last answer ends as the model ends it.

        Args:
            tools: descriptions, as OpenAI's API has them.

        Raises:
            CheckpointError: a tokenizer without a template.
            DataError: turns that the template refuses.
        """
        ids = self._render(turns, where, tools)
        if turns[-1].role == "assistant" and (ending := self._end()).end is not None:
            ids = [*ids[: len(ids) - ending.closing], ending.end]
        return np.asarray(ids, dtype=np.int64)

    def answers(self, turns: Sequence[Turn], ids_T: Ids, where: str, limit: int, tools: Tools = ()) -> Mask:
        """True for the tokens of answers, the end of each included: bool ``[T]``.

        What the assistant says and calls without another's turn between is one answer.

        Args:
            ids_T: what :meth:`ids` gave.
            limit: answers that begin behind so many tokens are not looked for.

        Raises:
            DataError: a template that writes turns otherwise once others follow.
        """
        mask_T = np.zeros(len(ids_T), dtype=bool)
        for place, turn in enumerate(turns):
            if turn.role != "assistant" or turns[place - 1].role == "assistant":
                continue
            prompt = self._render(turns[:place], where, tools, add_generation_prompt=True)
            start = _common(prompt, ids_T)
            if start >= limit:
                break
            behind = next(
                (number for number in range(place, len(turns)) if turns[number].role != "assistant"), len(turns)
            )
            mask_T[start : self._stop(turns[:behind], ids_T, len(prompt) - start, where, tools)] = True
        return mask_T

    def _stop(self, turns: Sequence[Turn], ids_T: Ids, missing: int, where: str, tools: Tools) -> int:
        """Behind the last token of the answer that ends ``turns``."""
        ending, upto = self._end(), self._render(turns, where, tools)
        end = len(upto) - ending.closing
        stop = min(_common(upto, ids_T), end + ending.own)
        # A token may reach over the edge of two turns; more than that is another text.
        if max(missing, end - stop) > 2:
            raise DataError(
                "the chat template writes a turn otherwise once others follow, so that its tokens cannot be told",
                where=where,
                hint="set check.scored=all",
            )
        follows = int(ids_T[stop]) if stop < len(ids_T) else None
        return stop + (not ending.own and follows in self._tokenizer.eos_ids)

    def _end(self) -> _Ending:
        if self._ending is None:
            self._ending = self._found_ending()
        return self._ending

    def _found_ending(self) -> _Ending:
        one, other = ([Said("user", "a"), Said("assistant", answer)] for answer in ("a", "0"))
        first, second = (self._render(turns, "a chat template") for turns in (one, other))
        closing = _common(first[::-1], second[::-1])
        written = first[len(first) - closing :]
        own = next((place + 1 for place, token in enumerate(written) if token in self._tokenizer.eos_ids), 0)
        return _Ending(closing, own, None if own else self._next_turns(one, first))

    def _next_turns(self, turns: Sequence[Turn], ids: list[int]) -> int:
        """The token that ends an answer: what opens the next turn, where the model stops there, else its own."""
        longer = self._render([*turns, Said("user", "a")], "a chat template")
        follows = longer[len(ids)] if _common(ids, longer) == len(ids) < len(longer) else None
        return follows if follows in self._tokenizer.eos_ids and follows is not None else self._tokenizer.eos_ids[0]

    def _render(
        self, turns: Sequence[Turn], where: str, tools: Tools = (), *, add_generation_prompt: bool = False
    ) -> list[int]:
        if self._tokenizer.chat_template is None:
            return self._tokenizer.apply_chat_template(turns)  # which says what is missing
        try:
            if tools and not self._tokenizer.takes_tools:
                self._tell_left_out(where)
                tools = ()
            return self._tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, tools=tools)
        except CheckpointError as error:
            raise DataError(error.what, where=where, expected=error.expected, hint=error.hint) from error

    def _tell_left_out(self, where: str) -> None:
        if not self._told:
            log.warning("the chat template has no place for tools: their descriptions are left out, first at %s", where)
            self._told = True


def _common(first: Sequence[int] | Ids, second: Sequence[int] | Ids) -> int:
    """Length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
