"""What a pass needs is counted by hand."""

from dataclasses import replace

import pytest
import torch

from glmquant.glm.groups import block_groups
from glmquant.streaming.activations import TOKENS_AT_ONCE
from glmquant.streaming.memory import activation_bytes, forward_bytes, num_weights, table_bytes
from tests.support.checkpoints import tiny_config

CONFIG = tiny_config()
WEIGHTS = 64 * (64 + 2 * 32) + 64 * 64 + 2 * 96 * 64 + 96 * 64


def test_the_weights_of_a_block_are_counted_by_hand() -> None:
    assert num_weights(block_groups(CONFIG, 0)) == WEIGHTS


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_pass_holds_a_block_twice_as_stored_once_as_computed_with_and_a_batch(dtype: torch.dtype, size: int) -> None:
    assert forward_bytes(CONFIG, dtype) == WEIGHTS * (2 * 2 + size) + TOKENS_AT_ONCE * 4 * (64 + 96) * 4


def test_a_large_vocabulary_counts_instead() -> None:
    config = replace(CONFIG, vocab_size=10**7)
    assert forward_bytes(config, torch.float32) == table_bytes(config) == 3 * 10**7 * 64


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_activations_are_the_residual_stream_and_the_widest_input_that_is_kept(dtype: torch.dtype, size: int) -> None:
    assert activation_bytes(CONFIG, 5, 7, dtype) == 5 * 7 * (64 * 4 + 96 * size)
