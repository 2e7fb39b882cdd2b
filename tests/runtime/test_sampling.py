import numpy as np
import pytest

from glmquant.errors import GenerationError
from glmquant.runtime.sampling import GenerationOptions, Sampler

LOGITS_V = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))


def shares(**options) -> list[float]:
    """How often each token is drawn."""
    sampler = Sampler(GenerationOptions(seed=0, **options), [])
    drawn = [sampler.choose(LOGITS_V) for _ in range(4000)]
    return [drawn.count(token) / 4000 for token in range(4)]


def test_temperature_zero_is_greedy() -> None:
    assert Sampler(GenerationOptions(), []).choose(np.array([0.0, 3.0, 1.0], np.float32)) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, [0.1, 0.5, 0.15, 0.25]),
        ({"temperature": 0.5}, [0.029, 0.725, 0.065, 0.181]),
        ({"temperature": 1.0, "top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"temperature": 1.0, "top_k": 1}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.5}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, [0, 2 / 3, 0, 1 / 3]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(options, expected) -> None:
    assert shares(**options) == pytest.approx(expected, abs=0.03)


def test_seen_tokens_are_penalized() -> None:
    logits_V = np.array([4.0, 3.0, -1.0, -1.5], np.float32)
    sampler = Sampler(GenerationOptions(repetition_penalty=2.0), [0])
    assert sampler.choose(logits_V) == 1  # of 2, 3, -1, -1.5
    assert sampler.choose(logits_V) == 0  # of 2, 1.5, -1, -1.5
    assert Sampler(GenerationOptions(repetition_penalty=2.0), []).choose(logits_V) == 0
    negative_V = np.array([-1.0, -1.5], np.float32)
    assert Sampler(GenerationOptions(repetition_penalty=2.0), [0]).choose(negative_V) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(GenerationError, match=next(iter(options))):
        GenerationOptions(**options)
