"""Generating text, token by token."""

from collections.abc import Iterator, Sequence

import numpy as np

from glmquant.errors import GenerationError
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions, Sampler


def generate(model: OnnxModel, prompt_ids: Sequence[int], options: GenerationOptions) -> Iterator[int]:
    """The answer's token ids, each as soon as it is known; ends before the first of the model's ``eos_ids``.

    Raises:
        GenerationError: an empty prompt, or one that leaves no room for ``max_new_tokens`` (before the first token).
    """
    length = len(prompt_ids) + options.max_new_tokens
    if not prompt_ids:
        raise GenerationError("the prompt is empty", expected="at least one token")
    if length > model.info.max_length:
        raise GenerationError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room for {options.max_new_tokens} more",
            expected=f"at most {model.info.max_length} together, the bundle's max_length",
            fix="shorten the prompt, ask for fewer tokens, or export with a larger export.max_length",
        )
    return _tokens(model, prompt_ids, options, length)


def _tokens(model: OnnxModel, prompt_ids: Sequence[int], options: GenerationOptions, length: int) -> Iterator[int]:
    cache = model.new_cache(1, length)
    sampler = Sampler(options)
    mask_BL = np.ones((1, length), np.int64)
    new_BT = np.array([prompt_ids], np.int64)
    for _ in range(options.max_new_tokens):
        columns = cache.length + new_BT.shape[1]
        logits = model.forward_with_cache(new_BT, mask_BL[:, :columns], cache, keep=1)
        token = int(sampler.choose(logits[:, -1])[0])
        if token in model.info.eos_ids:
            return
        yield token
        new_BT = np.array([[token]], np.int64)
