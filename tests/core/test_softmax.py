import numpy as np
import pytest
import scipy.special

from glmquant.core.softmax import logsumexp, softmax


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_both_equal_scipys(dtype: type, scale: float) -> None:
    logits = (scale * np.random.default_rng(0).normal(size=(5, 300))).astype(dtype)
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(softmax(logits), scipy.special.softmax(wide, axis=-1), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(logsumexp(logits), scipy.special.logsumexp(wide, axis=-1), rtol=1e-7)
    assert softmax(logits).dtype == logsumexp(logits).dtype == np.float64


def test_probabilities_sum_to_one_where_exponentials_would_overflow() -> None:
    assert softmax(np.array([1e4, 1e4, -1e4])).tolist() == [0.5, 0.5, 0.0]
    assert logsumexp(np.array([1e4, 1e4])) == pytest.approx(1e4 + np.log(2))


def test_logits_that_are_not_finite_stay_visible() -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(softmax(np.array([0.0, np.nan]))).all()
        assert not np.isfinite(logsumexp(np.array([0.0, np.inf])))
