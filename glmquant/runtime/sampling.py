"""Sampling the next token.

Shape suffixes: V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glmquant.core.softmax import softmax
from glmquant.errors import GenerationError, Parameter

ANY_SEED: Final = -1


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated.

    Attributes:
        max_new_tokens: maximum number of generated tokens.
        temperature: logits are divided by it before sampling; 0 for greedy decoding.
        top_k: sample from the k most likely tokens; None for all.
        top_p: nucleus sampling: sample from the smallest set of most likely tokens whose probabilities sum to at least
            this (arXiv:1904.09751, §3.1).
        repetition_penalty: logits of tokens in the prompt or the answer so far are divided by it where positive and
            multiplied by it where negative (CTRL, arXiv:1909.05858, §4.1); 1 for none, from 1e-6 to 1e6.
        stop_ids: token ids that end generation, in addition to the model's end-of-sequence ids.
        seed: of the random number generator; None, or -1 as other tools have it, for a different one each time.

    Raises:
        GenerationError: a value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1, or none"),
            ("repetition_penalty", self.repetition_penalty, 1e-6 <= self.repetition_penalty <= 1e6, "from 1e-6 to 1e6"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("seed", self.seed, self.seed is None or self.seed >= ANY_SEED, "0 or more, or -1 for another each time"),
        )
        for name, value, fits, expected in checks:
            if not fits:
                raise GenerationError(f"{name} is {value}", where=Parameter(name), expected=expected)


class Sampler:
    """Samples the tokens of one answer; a seed gives the same answer again.

    Args:
        prompt: its token ids, for the repetition penalty.
    """

    def __init__(self, options: GenerationOptions, prompt: Sequence[int]) -> None:
        self._options = options
        self._random = np.random.default_rng(None if options.seed == ANY_SEED else options.seed)
        self._seen = set(prompt)

    def choose(self, logits_V: npt.NDArray[np.float32]) -> int:
        """The next token's id; it counts as seen from now on.

        Raises:
            GenerationError: the model's logits are infinite or not numbers.
        """
        if not np.isfinite(logits_V.max()):
            raise GenerationError(
                f"the model's largest logit is {logits_V.max()}",
                expected="a model whose activations its dtype can hold",
                hint="export with export.dtype=float32",
            )
        if self._options.repetition_penalty != 1:
            logits_V = self._penalized(logits_V)
        token = int(logits_V.argmax()) if self._options.temperature == 0 else self._draw(logits_V)
        self._seen.add(token)
        return token

    def _penalized(self, logits_V: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        penalty = np.float32(self._options.repetition_penalty)
        penalized_V = logits_V.copy()
        ids = np.fromiter(self._seen, np.int64)
        penalized_V[ids] = np.where(logits_V[ids] > 0, logits_V[ids] / penalty, logits_V[ids] * penalty)
        return penalized_V

    def _draw(self, logits_V: npt.NDArray[np.float32]) -> int:
        options = self._options
        most_likely = np.argsort(-logits_V, kind="stable")[: options.top_k]
        likely_V = logits_V[most_likely].astype(np.float64)
        with np.errstate(over="ignore"):  # at a temperature near 0 all but the largest may become -inf
            probabilities = softmax((likely_V - likely_V[0]) / options.temperature)
        # A token is kept while those before it sum to less than top_p: the most likely one always is.
        before = np.cumsum(probabilities) - probabilities
        probabilities = probabilities[before < options.top_p]
        return int(most_likely[self._random.choice(len(probabilities), p=probabilities / probabilities.sum())])
