"""Greedy answers to several prompts at once, through the runtime's own model and cache.

Shape suffixes: B batch, T new tokens.
"""

from collections.abc import Sequence

import numpy as np

from glmquant.data.sequences import padded
from glmquant.runtime.model import OnnxModel


def greedy_batch(model: OnnxModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Each prompt's answer, up to its end-of-sequence id, decoded as one left-padded batch."""
    ids_BT, mask_BT = padded([np.array(prompt) for prompt in prompts], model.info.pad_id)
    cache = model.new_cache(len(prompts), ids_BT.shape[1] + max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    running_B = np.ones(len(prompts), bool)
    for _ in range(max_new_tokens):
        tokens_B = model.forward_with_cache(ids_BT, mask_BT, cache, keep=1)[:, -1].argmax(1)
        running_B &= ~np.isin(tokens_B, model.info.eos_ids)
        if not running_B.any():
            break
        for row in np.flatnonzero(running_B):
            answers[row].append(int(tokens_B[row]))
        # A row that has ended goes on with tokens that are dropped.
        ids_BT = tokens_B[:, None]
        mask_BT = np.concatenate([mask_BT, np.ones_like(ids_BT)], axis=1)
    return answers
