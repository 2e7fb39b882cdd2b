"""What every program starts from: one float checkpoint and one set of calibration tokens, in each program's form."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks import decode_twin
from glmquant import api
from glmquant.glm.groups import block_groups
from glmquant.recipe.schema import Recipe
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

SAMPLES, LENGTH = 32, 512


@dataclass(frozen=True)
class Case:
    """A model on a text.

    Attributes:
        calibration: the text it is calibrated on.
        texts: those it is evaluated on: the first like the calibration's, the others of another language or kind.
        sections: keys of :data:`benchmarks.accuracy.rows.SECTIONS`.
    """

    name: str
    title: str
    model: Path
    calibration: Path
    texts: tuple[Path, ...]
    sections: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """Files under one directory:

    float/             the checkpoint in canonical names, as transformers reads it
    calibration/       the first 32 x 512 tokens of the text, and the ranges of the float model's activations on them
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
    digest = hashlib.sha256(f"{source.fingerprint} {SAMPLES} {LENGTH}".encode() + case.calibration.read_bytes())
    inputs = Inputs(work / f"{case.name}-{digest.hexdigest()[:12]}")
    inputs.directory.mkdir(parents=True, exist_ok=True)
    if not inputs.path("float").exists():
        api.quantize(case.model, Recipe(version=1), out=inputs.path("float"))
    if not inputs.path("calibration").exists():
        options = {"num_samples": SAMPLES, "seq_len": LENGTH, "sampling": "sequential"}
        recipe = api.load_recipe(None, {f"calibration.{key}": value for key, value in options.items()})
        api.calibrate(inputs.path("float"), recipe, data=case.calibration, out=inputs.path("calibration"))
    if not inputs.path("calibration.json").exists():
        tokens_SL = read_calibration(inputs.path("calibration")).samples.tokens_SL
        inputs.path("calibration.json").write_text(json.dumps(tokens_SL.tolist()))
    if not inputs.path("twin-f16.gguf").exists():
        unfinished = inputs.path("twin-f16.unfinished")
        decode_twin.write(inputs.checkpoint, unfinished, LENGTH)
        unfinished.rename(inputs.path("twin-f16.gguf"))
    if not inputs.path("importance.npz").exists():
        _write_importance(inputs)
    return inputs


def _write_importance(inputs: Inputs) -> None:
    """What llama.cpp's own tool gathers, from our pass over the same tokens."""
    config, ranges = inputs.checkpoint.config, read_calibration(inputs.path("calibration")).inputs
    importance = {}
    for layer in range(config.num_hidden_layers):
        members = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
        for group, names in zip(block_groups(config, layer), members, strict=True):
            for name in names:
                importance[f"blk.{layer}.{name}.weight"] = ranges[group.name].mean_square_K.numpy()
    with inputs.path("importance.npz").open("wb") as file:
        np.savez(file, **importance)
