"""Which names are weights."""

import pytest

from glmquant.core.weight_names import loose_weights


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        ([], []),
        (["a.txt", "config.json"], []),
        (["gptq_model-4bit-128g.safetensors", "training_args.bin"], ["gptq_model-4bit-128g.safetensors"]),
        (["model.pt", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"], ["model.pt"]),
        (["a.bin", "b.safetensors", "c.safetensors"], ["b.safetensors", "c.safetensors"]),
        (["adapter_model.safetensors", "zero_pp_rank_0_mp_rank_00_optim_states.pt"], []),
    ],
)
def test_weights_are_told_from_what_a_trainer_leaves(names: list[str], weights: list[str]) -> None:
    assert loose_weights(names) == weights
