"""Generating token ids with a KV cache: one answer as a stream, or the turns of a conversation.

Shape suffixes: B batch (of one), T new tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np

from glmquant.errors import GenerationError, Parameter
from glmquant.runtime.cache import KvCache
from glmquant.runtime.model import Logits, OnnxModel
from glmquant.runtime.sampling import GenerationOptions, Sampler


def generate(model: OnnxModel, prompt_ids: Sequence[int], options: GenerationOptions) -> Iterator[int]:
    """Stream the answer's token ids; ends before the first of the model's ``eos_ids`` or the options' ``stop_ids``.

    Raises:
        GenerationError: an empty prompt, or one that leaves no room for ``max_new_tokens`` (before the first token).
    """
    return Conversation(model, len(prompt_ids) + options.max_new_tokens).answer(prompt_ids, options)


class Conversation:
    """Answers to prompts with common prefixes, such as the turns of a chat: the prefix of a prompt that is in the KV
    cache is not computed again.

    Args:
        capacity: size of the KV cache in tokens, prompt and answer together; None for the model's ``max_length``.
    """

    def __init__(self, model: OnnxModel, capacity: int | None = None) -> None:
        self._model = model
        self._capacity = model.info.max_length if capacity is None else min(capacity, model.info.max_length)
        self._cache: KvCache | None = None
        self._cached: list[int] = []

    @property
    def cached(self) -> tuple[int, ...]:
        """The tokens in the KV cache."""
        return tuple(self._cached)

    def forget(self) -> None:
        """Compute the next prompt from its first token on, as if it were the first.

        The last token after a prefix from the cache may round otherwise than in a prompt that is computed whole.
        """
        self._cached.clear()

    def answer(self, prompt_ids: Sequence[int], options: GenerationOptions) -> Iterator[int]:
        """Stream the answer to ``prompt_ids``, which hold the whole conversation so far, as :func:`generate` does.

        Raises:
            GenerationError: as :func:`generate` does.
        """
        _check_room(prompt_ids, options, self._capacity)
        return self._tokens(list(prompt_ids), options)

    def _tokens(self, prompt_ids: list[int], options: GenerationOptions) -> Iterator[int]:
        sampler = Sampler(options, prompt_ids)
        ends = {*self._model.info.eos_ids, *options.stop_ids}
        new = prompt_ids[self._keep_prefix(prompt_ids) :]
        for _ in range(options.max_new_tokens):
            token = sampler.choose(self._forward(new))
            if token in ends:
                return
            yield token
            new = [token]

    def _keep_prefix(self, prompt_ids: list[int]) -> int:
        """Truncate the cache to the prompt's prefix, leaving at least one token to compute."""
        pairs = zip(self._cached, prompt_ids[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if self._cache is None:
            self._cache = self._model.new_cache(1, self._capacity)
        self._cache.truncate(common)
        del self._cached[common:]
        return common

    def _forward(self, new: list[int]) -> Logits:
        """Logits ``[V]`` after the new tokens."""
        assert self._cache is not None
        mask = np.ones((1, self._cache.length + len(new)), np.int64)
        logits_BTV = self._model.forward_with_cache(np.array([new], np.int64), mask, self._cache, keep=1)
        self._cached += new
        logits_V: Logits = logits_BTV[0, -1]
        return logits_V


def _check_room(prompt_ids: Sequence[int], options: GenerationOptions, capacity: int) -> None:
    if len(prompt_ids) == 0:
        raise GenerationError("the prompt is empty", expected="at least one token")
    if len(prompt_ids) + options.max_new_tokens > capacity:
        raise GenerationError(
            f"the prompt has {len(prompt_ids)} tokens, which leaves no room for {options.max_new_tokens} new ones",
            where=Parameter("max_new_tokens"),
            expected=f"at most {capacity} tokens together, the bundle's max_length",
            hint="shorten the prompt, lower max_new_tokens, or export with a larger export.max_length",
        )
