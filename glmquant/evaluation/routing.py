"""Routing agreement: whether a quantized model's tokens meet the experts that they meet in the float model.

Each model routes its own residual stream, so what is compared holds the errors of all layers before.

Shape suffixes: S sequences, B sequences of a batch, T tokens, X experts, k experts of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.data.sequences import Ids
from glmquant.errors import CheckError
from glmquant.glm.config import ExpertsConfig
from glmquant.glm.model import ModelSource
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import ActivationStore, Batch, embed_sequences
from glmquant.streaming.forward import Forward, walk

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerRouting:
    """How two models route the same tokens in one layer.

    Attributes:
        tokens_S: tokens of each sequence.
        differing_S: those of them whose set of experts differs; in what order they were chosen does not count.
        baseline_load_X, candidate_load_X: tokens that each expert meets.
    """

    layer: int
    tokens_S: Counts
    differing_S: Counts
    baseline_load_X: Counts
    candidate_load_X: Counts

    @property
    def differing(self) -> float:
        """Share of all tokens whose set of experts differs."""
        return float(self.differing_S.sum() / self.tokens_S.sum())


@dataclass(frozen=True, eq=False)
class Routes:
    """Which experts each token meets.

    Attributes:
        experts: of a layer; None where there are no layers with routed experts.
        chosen: by layer and sequence, numbers of each token's experts in ascending order, int16 ``[T, k]``.
    """

    experts: ExpertsConfig | None
    chosen: dict[int, list[Tensor]]


def compare_routing(
    baseline: ModelSource,
    candidate: ModelSource,
    sequences: Sequence[Ids],
    store: ActivationStore | None = None,
    progress: Progress = silent,
) -> tuple[LayerRouting, ...]:
    """Both models' routing of every token, in each layer that has routed experts; ``()`` where none has.

    Args, errors: as of :func:`routes`, and of :func:`compare_routes`.
    """
    before, after = (routes(model, sequences, store, progress) for model in (baseline, candidate))
    return compare_routes(before, after)


def routes(
    model: ModelSource, sequences: Sequence[Ids], store: ActivationStore | None = None, progress: Progress = silent
) -> Routes:
    """Which experts the tokens meet. Memory: beside a forward pass, two bytes for each expert of a token and layer.

    Args:
        sequences: token ids, int64 ``[T]`` each, prefix included.

    Raises:
        CalibrationError: token ids outside the vocabulary.
        CheckpointError: activations that are not finite.
    """
    store, experts, layers = store or ActivationStore(), model.config.experts, model.config.num_hidden_layers
    if experts is None:
        return Routes(None, {})
    sparse = range(experts.first_layer, layers)
    found = Routes(experts, {layer: [torch.empty(0)] * len(sequences) for layer in sparse})

    def note(layer: int, batch: Batch, chosen_Tk: Tensor) -> None:
        rows_BTk = chosen_Tk.sort(dim=-1).values.to(CPU, torch.int16).unflatten(0, (len(batch.members), batch.length))
        for row_Tk, member in zip(rows_BTk, batch.members, strict=True):
            found.chosen[layer][member] = row_Tk[: len(sequences[member])]

    with torch.inference_mode(), float32_products(store.device, exact=True):
        activations = embed_sequences(sequences, model.embedding(), model.config, store)
        walk(
            model.block,
            range(layers),
            [activations],
            Forward(on_experts=note),
            device=store.device,
            progress=progress,
            stage="routing, block by block",
            total=layers,
        )
        activations.hidden.close()
    return found


def compare_routes(baseline: Routes, candidate: Routes) -> tuple[LayerRouting, ...]:
    """Layer by layer, of the same sequences.

    Raises:
        CheckError: models whose experts are not the same in number.
    """
    if baseline.experts != candidate.experts or baseline.chosen.keys() != candidate.chosen.keys():
        raise CheckError(
            "the two models do not have the same experts",
            expected="a checkpoint and what it was quantized to",
            hint="compare with the checkpoint that was quantized",
        )
    if baseline.experts is None:
        return ()
    count = baseline.experts.count
    return tuple(_compared(layer, baseline.chosen[layer], candidate.chosen[layer], count) for layer in baseline.chosen)


def _compared(layer: int, before: list[Tensor], after: list[Tensor], count: int) -> LayerRouting:
    return LayerRouting(
        layer,
        np.array([len(one) for one in before]),
        np.array([int((one != other).any(-1).sum()) for one, other in zip(before, after, strict=True)]),
        _load(before, count),
        _load(after, count),
    )


def _load(chosen: Sequence[Tensor], count: int) -> Counts:
    load_X: Counts = torch.cat(list(chosen)).flatten().long().bincount(minlength=count).numpy()
    return load_X
