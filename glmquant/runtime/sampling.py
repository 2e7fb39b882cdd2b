"""Choosing the next token.

Shape suffixes: B batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glmquant.errors import GenerationError, Parameter


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated.

    Attributes:
        max_new_tokens: when to stop at the latest.
        temperature: logits are divided by it before sampling; 0 always takes the likeliest token.
        top_k: sample among the so many likeliest tokens; None for all.
        top_p: sample among the fewest likeliest tokens whose probabilities reach it (arXiv:1904.09751, §3.1).
        repetition_penalty: logits of tokens that the prompt or the answer already has are divided by it where positive
            and multiplied where negative (CTRL, arXiv:1909.05858, §4.1); 1 for none.
        stop_ids: ids that end the answer beside the model's own.
        seed: of the random choices; None differs each time.

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
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < float("inf"), "more than 0"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
        )
        for name, value, fits, expected in checks:
            if not fits:
                raise GenerationError(f"{name} is {value}", where=Parameter(name), expected=expected)


class Sampler:
    """Chooses tokens by ``options``; one sampler a batch of answers, so that a seed gives the same answers again.

    Args:
        prompts: of each row, for the repetition penalty.
    """

    def __init__(self, options: GenerationOptions, prompts: Sequence[Sequence[int]]) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._seen = [set(prompt) for prompt in prompts]

    def choose(self, logits_BV: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """One token id a row, ``[B]``; it counts as seen from now on."""
        if self._options.repetition_penalty != 1:
            logits_BV = self._penalized(logits_BV)
        if self._options.temperature == 0:
            tokens_B: npt.NDArray[np.int64] = logits_BV.argmax(1)
        else:
            tokens_B = np.array([self._draw(logits_V) for logits_V in logits_BV], np.int64)
        for seen, token in zip(self._seen, tokens_B, strict=True):
            seen.add(int(token))
        return tokens_B

    def _penalized(self, logits_BV: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        penalty = np.float32(self._options.repetition_penalty)
        penalized = logits_BV.copy()
        for logits_V, seen in zip(penalized, self._seen, strict=True):
            ids = np.fromiter(seen, np.int64)
            logits_V[ids] = np.where(logits_V[ids] > 0, logits_V[ids] / penalty, logits_V[ids] * penalty)
        return penalized

    def _draw(self, logits_V: npt.NDArray[np.float32]) -> int:
        options = self._options
        likeliest = np.argsort(-logits_V, kind="stable")[: options.top_k]
        scaled = logits_V[likeliest].astype(np.float64) / options.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        # A token counts while those before it fall short of top_p: the likeliest always does.
        before = np.cumsum(probabilities) - probabilities
        probabilities = probabilities[before < options.top_p]
        return int(likeliest[self._random.choice(len(probabilities), p=probabilities / probabilities.sum())])
