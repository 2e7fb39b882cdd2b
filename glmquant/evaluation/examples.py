"""The token of a window with the largest KL divergence, for a reader to look at.

Shape suffixes: R scored tokens, T tokens of a window, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray

from glmquant.core.protocols import Tokenizer
from glmquant.core.softmax import softmax
from glmquant.evaluation.metrics import Guess, TokenScores, WorstToken
from glmquant.evaluation.source import Logits
from glmquant.glm.tokenizers.pieces import spelled

CONTEXT_TOKENS = 24
GUESSES = 3
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What bytes that are no UTF-8 are decoded to."""


def worst_token(
    text: str,
    window_T: NDArray[np.int64],
    places_R: NDArray[np.int64],
    baseline_RV: Logits,
    candidate_RV: Logits,
    scores: TokenScores,
    tokenizer: Tokenizer,
) -> WorstToken:
    """The scored token with the largest KL divergence, the text before it, and what each model predicts there.

    Args:
        places_R: of the scored tokens in the window.
    """
    row = int(scores.kl.argmax())
    place = int(places_R[row])
    start = max(len(tokenizer.prefix_ids), place - CONTEXT_TOKENS)
    before = window_T[start:place].tolist()
    return WorstToken(
        text=text,
        before=tokenizer.decode(before),
        actual=_after(before, int(window_T[place]), tokenizer),
        kl=float(scores.kl[row]),
        baseline=_guesses(baseline_RV[row], before, tokenizer),
        candidate=_guesses(candidate_RV[row], before, tokenizer),
        baseline_probability=float(np.exp(-scores.baseline_nll[row])),
        candidate_probability=float(np.exp(-scores.candidate_nll[row])),
    )


def _guesses(logits_V: Logits, before: list[int], tokenizer: Tokenizer) -> tuple[Guess, ...]:
    probabilities_V = softmax(logits_V)
    best = np.argpartition(-probabilities_V, GUESSES)[:GUESSES]
    best = best[np.argsort(-probabilities_V[best])]
    return tuple(Guess(_after(before, token, tokenizer), float(probabilities_V[token])) for token in best.tolist())


def _after(before: list[int], token: int, tokenizer: Tokenizer) -> str:
    """A token's text in its context: decoded alone, it may lose the space it begins with. A part of a character is
    shown as its bytes."""
    start, whole = tokenizer.decode(before), tokenizer.decode([*before, token])
    text = whole[len(start) :] if whole.startswith(start) else tokenizer.decode([token])
    return text if NO_CHARACTER not in text else spelled(tokenizer.token(token) or "") or text
