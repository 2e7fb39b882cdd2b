"""The block against the publisher's own numbers and against transformers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from glmquant.glm.hf_config import to_hf_config
from tests.support.checkpoints import tiny_config
from tests.support.golden import NAMES, config, expected, tensors
from tests.support.whole_model import first_cache, logits


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_publishers(name: str) -> None:
    want = expected(name)
    got = logits(tensors(name), config(name), want["input_ids"])
    torch.testing.assert_close(got, want["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_left_padded_rows_are_the_publishers(name: str) -> None:
    want = expected(name)
    mask = want["attention_mask_padded"]
    got = logits(tensors(name), config(name), want["input_ids"], mask)
    real = mask.bool()
    assert real.sum(1).tolist() == [24, 17]
    torch.testing.assert_close(got[real], want["logits_padded"][real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_first_cache_is_the_publishers(name: str) -> None:
    want = expected(name)
    key, value = first_cache(tensors(name), config(name), want["input_ids"])
    torch.testing.assert_close(key.transpose(0, 1), want["layer0_key"], atol=1e-5, rtol=0)
    torch.testing.assert_close(value.transpose(0, 1), want["layer0_value"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_the_publishers(name: str) -> None:
    want = expected(name)
    ids = want["input_ids"][:1]
    for _ in range(16):
        ids = torch.cat([ids, logits(tensors(name), config(name), ids)[:, -1:].argmax(-1)], dim=1)
    assert ids.tolist() == want["greedy"].tolist()


TINY = replace(
    tiny_config(),
    hidden_size=48,
    intermediate_size=40,
    rope_theta=500.0,
    rms_norm_eps=1e-3,
    vocab_size=64,
    bos_token_id=None,
    eos_token_ids=(1, 2),
    float_dtype="float32",
)


@pytest.mark.parametrize("architecture", ["glm", "glm4"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rotary_dim": 16, "num_key_value_heads": 4},
        {"rotary_dim": 4, "num_key_value_heads": 1},
        {"attention_bias": False},
        {"position_divisor": 3.5},
        {"tie_word_embeddings": True},
        {"rope_theta": 5e8},
    ],
    ids=str,
)
def test_logits_are_those_of_transformers(architecture: Any, changes: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny = replace(TINY, architecture=architecture, **changes)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**to_hf_config(tiny))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.dim() == 1))
    ids = torch.randint(0, 64, (2, 20))
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    weights = dict(model.state_dict())
    with torch.no_grad():
        whole, padded = model(ids).logits, model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits(weights, tiny, ids), whole, atol=2e-4, rtol=1e-4)
    real = mask.bool()
    torch.testing.assert_close(logits(weights, tiny, ids, mask)[real], padded[real], atol=2e-4, rtol=1e-4)
