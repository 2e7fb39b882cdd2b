"""Generating token ids: one answer as a stream, the turns of a conversation, or the answers to a batch.

Shape suffixes: B batch, T new tokens, L columns of the mask.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np

from glmquant.errors import GenerationError
from glmquant.runtime.cache import KvCache
from glmquant.runtime.model import Ids, OnnxModel
from glmquant.runtime.sampling import GenerationOptions, Sampler


def generate(model: OnnxModel, prompt_ids: Sequence[int], options: GenerationOptions) -> Iterator[int]:
    """The answer's token ids, each as soon as it is known; ends before the first of the model's ``eos_ids`` or the
    options' ``stop_ids``.

    Raises:
        GenerationError: an empty prompt, or one that leaves no room for ``max_new_tokens`` (before the first token).
    """
    return Conversation(model, len(prompt_ids) + options.max_new_tokens).answer(prompt_ids, options)


class Conversation:
    """Answers whose prompts share their beginnings, as the turns of a chat do: what a prompt has in common with what
    is cached is not computed again.

    Args:
        capacity: tokens of prompt and answer together that the cache can hold; None for the model's ``max_length``.
    """

    def __init__(self, model: OnnxModel, capacity: int | None = None) -> None:
        self._model = model
        self._capacity = model.info.max_length if capacity is None else min(capacity, model.info.max_length)
        self._cache: KvCache | None = None
        self._cached: list[int] = []

    @property
    def cached(self) -> tuple[int, ...]:
        """The tokens whose keys and values are held."""
        return tuple(self._cached)

    def answer(self, prompt_ids: Sequence[int], options: GenerationOptions) -> Iterator[int]:
        """As :func:`generate`; ``prompt_ids`` are of the whole conversation so far, each time.

        Raises:
            GenerationError: as :func:`generate` does.
        """
        check_room([prompt_ids], options, self._capacity)
        return self._tokens(list(prompt_ids), options)

    def _tokens(self, prompt_ids: list[int], options: GenerationOptions) -> Iterator[int]:
        sampler = Sampler(options, [prompt_ids])
        ends = {*self._model.info.eos_ids, *options.stop_ids}
        new = prompt_ids[self._keep_common(prompt_ids) :]
        for _ in range(options.max_new_tokens):
            token = int(sampler.choose(self._forward(new))[0])
            if token in ends:
                return
            yield token
            new = [token]

    def _keep_common(self, prompt_ids: list[int]) -> int:
        """Cuts the cache to what the prompt starts with, leaving at least one token to compute."""
        pairs = zip(self._cached, prompt_ids[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if self._cache is None:
            self._cache = self._model.new_cache(1, self._capacity)
        self._cache.cut(common)
        del self._cached[common:]
        return common

    def _forward(self, new: list[int]) -> np.ndarray:
        assert self._cache is not None
        mask_BL = np.ones((1, self._cache.length + len(new)), np.int64)
        logits = self._model.forward_with_cache(np.array([new], np.int64), mask_BL, self._cache, keep=1)
        self._cached += new
        return logits[:, -1]


def generate_batch(
    model: OnnxModel, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> tuple[tuple[int, ...], ...]:
    """The answer to each prompt, computed side by side; greedy answers are those :func:`generate` gives (not always so
    of quantized bundles of profile ``standard`` at accuracy level 4, where padding may round an activation otherwise).

    Raises:
        GenerationError: no prompt, an empty one, or one that leaves no room for ``max_new_tokens``.
    """
    check_room(prompts, options, model.info.max_length)
    ends = np.array([*model.info.eos_ids, *options.stop_ids])
    new_BT, mask_BL = left_padded(prompts, model.info.pad_id, options.max_new_tokens)
    columns = new_BT.shape[1]
    cache = model.new_cache(len(prompts), mask_BL.shape[1])
    sampler = Sampler(options, prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    running_B = np.ones(len(prompts), bool)
    for _ in range(options.max_new_tokens):
        tokens_B = sampler.choose(model.forward_with_cache(new_BT, mask_BL[:, :columns], cache, keep=1)[:, -1])
        running_B &= ~np.isin(tokens_B, ends)
        if not running_B.any():
            break
        for row in np.flatnonzero(running_B):
            answers[row].append(int(tokens_B[row]))
        # A row that has ended goes on with tokens that nobody sees.
        new_BT = tokens_B[:, None]
        columns += 1
    return tuple(map(tuple, answers))


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, room: int) -> tuple[Ids, Ids]:
    """Prompts as a batch ``[B, T]`` with padding on the left, and its mask ``[B, T + room]``."""
    longest = max(map(len, prompts))
    ids_BT = np.full((len(prompts), longest), pad_id, np.int64)
    mask_BL = np.ones((len(prompts), longest + room), np.int64)
    for row, prompt in enumerate(prompts):
        ids_BT[row, longest - len(prompt) :] = prompt
        mask_BL[row, : longest - len(prompt)] = 0
    return ids_BT, mask_BL


def check_room(prompts: Sequence[Sequence[int]], options: GenerationOptions, capacity: int) -> None:
    """Raises GenerationError for no prompt, an empty one, or one that leaves no room for the answer."""
    if not prompts or not all(map(len, prompts)):
        raise GenerationError("a prompt is empty" if prompts else "there is no prompt", expected="at least one token")
    longest = max(map(len, prompts))
    if longest + options.max_new_tokens > capacity:
        raise GenerationError(
            f"a prompt of {longest} tokens leaves no room for {options.max_new_tokens} more",
            expected=f"at most {capacity} together, the bundle's max_length",
            hint="shorten the prompt, ask for fewer tokens, or export with a larger export.max_length",
        )
