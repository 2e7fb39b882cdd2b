import numpy as np
import pytest

from glmquant.evaluation.examples import CONTEXT_TOKENS, worst_token
from glmquant.evaluation.metrics import score_tokens
from tests.support.tokenizers import Letters

PREFIX = (7, 8)


def test_the_token_with_the_largest_divergence_is_shown_in_its_context() -> None:
    window = np.array([*PREFIX, *map(ord, "abcdefgh")])
    targets = window[-5:]  # d to h
    baseline = np.zeros((5, 128), np.float32)
    baseline[np.arange(5), targets] = 5.0
    candidate = baseline.copy()
    candidate[3, [ord("x"), ord("g"), ord("y")]] = (8.0, 2.0, 7.0)
    scores, places = score_tokens(baseline, candidate, targets), np.arange(5, 10)
    worst = worst_token("en.txt", window, places, baseline, candidate, scores, Letters(PREFIX))
    assert (worst.text, worst.before, worst.actual) == ("en.txt", "abcdef", "g")
    assert worst.baseline[0].token == "g"
    assert worst.baseline[0].probability == pytest.approx(worst.baseline_probability, rel=1e-6)
    assert [guess.token for guess in worst.candidate] == ["x", "y", "g"]
    weights = np.exp([8.0, 7.0, 2.0])
    assert [guess.probability for guess in worst.candidate] == pytest.approx(weights / (weights.sum() + 125), rel=1e-6)
    assert worst.candidate[2].probability == pytest.approx(worst.candidate_probability, rel=1e-5)


def test_a_long_context_is_shown_by_its_last_tokens() -> None:
    window = np.array([*PREFIX, *([ord("a")] * 50), ord("b")])
    baseline, candidate = np.zeros((2, 1, 128), np.float32)
    candidate[0, 1] = 3.0
    scores = score_tokens(baseline, candidate, window[-1:])
    places = np.array([len(window) - 1])
    worst = worst_token("t", window, places, baseline, candidate, scores, Letters(PREFIX))
    assert (worst.before, worst.actual) == ("a" * CONTEXT_TOKENS, "b")
