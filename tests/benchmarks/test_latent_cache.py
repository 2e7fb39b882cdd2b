"""The forms of latent attention that ``benchmarks.latent_cache`` times compute the same, and hold what it says."""

import numpy as np
import pytest

from benchmarks.latent_cache.forms import EXPANDED_INT8, FORMS, LATENT_MATMUL, Weights, make_weights
from benchmarks.latent_cache.run import LAYERS, TOLERANCES, break_even, held, measure


@pytest.fixture(scope="module")
def weights() -> Weights:
    return make_weights(np.random.default_rng(0))


@pytest.mark.parametrize(("past", "new"), [(40, 1), (40, 3)])
def test_every_form_gives_the_same_values(weights: Weights, past: int, new: int) -> None:
    errors = measure(weights, past, new, repetitions=1).errors
    for form, error in zip(FORMS[2:], errors[2:], strict=True):
        assert error <= TOLERANCES[form.kind], form.title
    assert errors[1] > 1e-4  # 8 bits are not exact, so the error is measured on something


def test_a_copied_cache_counts_twice(weights: Weights) -> None:
    added = held(LATENT_MATMUL, weights, 1) - held(LATENT_MATMUL, weights, 0)
    assert added == 2 * LAYERS * 576 * 4


def test_break_even_is_where_both_hold_the_same(weights: Weights) -> None:
    length = int(break_even(LATENT_MATMUL, weights).replace(",", ""))
    ours, theirs = (held(form, weights, length) for form in (LATENT_MATMUL, EXPANDED_INT8))
    assert ours == pytest.approx(theirs, rel=1e-3)
