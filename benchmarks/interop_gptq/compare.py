"""Our logits of a checkpoint, and how far another's are from them.

Shape suffixes: B batch, T tokens, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.glm.parts import Context
from glmquant.glm.rotary import rms_norm, rotary
from glmquant.store.checkpoint import Checkpoint


@dataclass(frozen=True)
class Distance:
    """``error``: RMS of the difference over the RMS of the expected logits; ``kl``: mean nats a token."""

    error: float
    kl: float
    top1: float

    def __str__(self) -> str:
        return f"{100 * self.error:.2f} % | {self.kl:.2e} | {100 * self.top1:.1f} %"


@torch.inference_mode()
def logits_of(checkpoint: Checkpoint, tokens_BT: Tensor) -> Tensor:
    """Float32 logits ``[B, T, V]``, block by block."""
    config = checkpoint.config
    context = Context(config, rotary(config, torch.arange(tokens_BT.shape[1]).unsqueeze(0)))
    x_BTD = checkpoint.embedding()[tokens_BT].float()
    for layer in range(config.num_hidden_layers):
        x_BTD = checkpoint.block(layer).forward(x_BTD, context)
    return checkpoint.head()(rms_norm(x_BTD, checkpoint.final_norm(), config.rms_norm_eps))


def distance(got_BTV: Tensor, expected_BTV: Tensor) -> Distance:
    got, expected = got_BTV.log_softmax(-1), expected_BTV.log_softmax(-1)
    return Distance(
        float((got_BTV - expected_BTV).norm() / expected_BTV.norm()),
        float((expected.exp() * (expected - got)).sum(-1).mean()),
        float((got.argmax(-1) == expected.argmax(-1)).float().mean()),
    )
