"""What every program starts from: one float checkpoint and one set of calibration tokens, in each program's form."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.common import llama_twin
from glmquant import api
from glmquant.recipe.load import load_recipe
from glmquant.recipe.schema import Recipe
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

SAMPLES, LENGTH = 32, 512
GGUF_LINEARS = {
    "self_attn.q_proj": ("attn_q", "attn_k", "attn_v"),
    "self_attn.o_proj": ("attn_output",),
    "mlp.gate_up_proj": ("ffn_gate", "ffn_up"),
    "mlp.down_proj": ("ffn_down",),
}
"""Linear layers of transformers' ``glm``, and those of GGUF with the same inputs."""


@dataclass(frozen=True)
class Case:
    """A model on a text.

    Attributes:
        calibration: the texts it is calibrated on.
        texts: those it is evaluated on: the first like the calibration's, the others of another language or kind.
        sections: keys of :data:`benchmarks.accuracy.rows.SECTIONS`.
        sampling: the calibration's, as in a recipe.
    """

    name: str
    title: str
    model: Path
    calibration: tuple[Path, ...]
    texts: tuple[Path, ...]
    sections: tuple[str, ...]
    sampling: Literal["sequential", "random"] = "sequential"


@dataclass(frozen=True)
class Inputs:
    """Files under one directory:

    float/             the checkpoint in canonical names, as transformers reads it
    calibration/       32 x 512 tokens of the texts
    calibration.json   the same tokens
    twin-f16.gguf      a Llama-shaped GGUF of the same linears
    importance.npz     for each linear of it, the mean square of every input column on the same tokens
    """

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / name

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.path("float"))

    @cached_property
    def tokens_sha256(self) -> str:
        return read_calibration(self.path("calibration")).samples.sha256


def prepare(case: Case, work: Path) -> Inputs:
    """Writes what is missing; another model or text gets another directory."""
    source = open_checkpoint(case.model)
    tokens = {"num_samples": SAMPLES, "seq_len": LENGTH, "sampling": case.sampling}
    digest = hashlib.sha256(f"{source.fingerprint} {tokens}".encode())
    for text in case.calibration:
        digest.update(text.read_bytes())
    inputs = Inputs(work / f"{case.name}-{digest.hexdigest()[:12]}")
    inputs.directory.mkdir(parents=True, exist_ok=True)
    if not inputs.path("float").exists():
        api.quantize(case.model, Recipe(version=1), out=inputs.path("float"))
    if not inputs.path("calibration").exists():
        recipe = load_recipe(None, {f"calibration.{key}": value for key, value in tokens.items()})
        api.calibrate(inputs.path("float"), recipe, data=case.calibration, out=inputs.path("calibration"))
    if not inputs.path("calibration.json").exists():
        tokens_SL = read_calibration(inputs.path("calibration")).samples.tokens_SL
        inputs.path("calibration.json").write_text(json.dumps(tokens_SL.tolist()))
    if not inputs.path("twin-f16.gguf").exists():
        unfinished = inputs.path("twin-f16.unfinished")
        llama_twin.write_gguf(inputs.checkpoint, unfinished, LENGTH)
        unfinished.rename(inputs.path("twin-f16.gguf"))
    if not inputs.path("importance.npz").exists():
        _write_importance(inputs)
    return inputs


def _write_importance(inputs: Inputs) -> None:
    """What llama.cpp's own tool gathers, from transformers' pass over the same tokens."""
    model = transformers.GlmForCausalLM.from_pretrained(inputs.path("float"), dtype=torch.float32).model
    tokens_SL = torch.tensor(json.loads(inputs.path("calibration.json").read_text()))
    mean_squares = mean_square_inputs(model, tokens_SL)
    importance = {
        f"blk.{layer}.{name}.weight": mean_squares[f"layers.{layer}.{part}"].numpy()
        for layer in range(inputs.checkpoint.config.num_hidden_layers)
        for part, names in GGUF_LINEARS.items()
        for name in names
    }
    with inputs.path("importance.npz").open("wb") as file:
        np.savez(file, **importance)


@torch.inference_mode()
def mean_square_inputs(model: torch.nn.Module, tokens_SL: Tensor) -> dict[str, Tensor]:
    """Of every ``torch.nn.Linear`` by its name: the mean over all tokens of the square of each input column, [K].

    Args:
        tokens_SL: token ids, one sample of S a row; the model sees one at a time.
    """
    sums: dict[str, Tensor] = {}

    def observe(name: str, inputs: tuple[Tensor, ...]) -> None:
        squares_K = inputs[0].double().square().flatten(0, -2).sum(0)
        sums[name] = sums.get(name, 0) + squares_K

    hooks = [
        part.register_forward_pre_hook(lambda _, inputs, name=name: observe(name, inputs))
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    for tokens_L in tokens_SL:
        model(tokens_L[None])
    for hook in hooks:
        hook.remove()
    return {name: (sum_K / tokens_SL.numel()).float() for name, sum_K in sums.items()}
