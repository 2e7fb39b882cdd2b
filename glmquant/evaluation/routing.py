"""Routing agreement: whether a quantized model's tokens meet the experts that they meet in the float model.

Each model routes its own residual stream, so what is compared holds the errors of all layers before.

Shape suffixes: S sequences, B sequences of a batch, T tokens, M tokens of all sequences, L layers with routed experts,
X experts, k experts of a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.data.sequences import Ids
from glmquant.errors import CheckError
from glmquant.glm.config import ExpertsConfig, GlmConfig
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

    def packed(self) -> Tensor:
        """All of them as one tensor, int16 ``[L, M, k]``; :meth:`unpacked` is the inverse."""
        return torch.stack([torch.cat(rows) for rows in self.chosen.values()])

    @classmethod
    def unpacked(cls, packed_LMk: Tensor, config: GlmConfig, lengths: Sequence[int]) -> "Routes":
        """Raises:
        ValueError: not what a model of ``config`` makes of sequences so long.
        """
        experts, layers = config.experts, sparse_layers(config)
        expected = (len(layers), sum(lengths), 0 if experts is None else experts.per_token)
        if experts is None or packed_LMk.shape != expected or packed_LMk.dtype != torch.int16:
            raise ValueError(f"experts of tokens, {tuple(packed_LMk.shape)}, for int16 {expected}")
        ascending = bool((packed_LMk.diff(dim=-1) > 0).all())
        if not ascending or (
            packed_LMk.numel() and not 0 <= int(packed_LMk.min()) <= int(packed_LMk.max()) < experts.count
        ):
            raise ValueError(
                f"experts of tokens that are not {experts.per_token} of {experts.count} in ascending order"
            )
        return cls(
            experts, {layer: list(rows.split(list(lengths))) for layer, rows in zip(layers, packed_LMk, strict=True)}
        )

    @classmethod
    def joined(cls, parts: Sequence["Routes"]) -> "Routes":
        """Of routes that are each empty where another one's are not."""
        layers = parts[0].chosen
        return cls(
            parts[0].experts,
            {
                layer: [max(rows, key=len) for rows in zip(*(part.chosen[layer] for part in parts), strict=True)]
                for layer in layers
            },
        )


class RouteRecorder:
    """Notes which experts the tokens of some sequences meet, as a :class:`~glmquant.streaming.forward.Forward` shows.

    Memory: two bytes for each expert of a token and layer.

    Args:
        lengths: by number in the stream, of the sequences that are noted.
    """

    def __init__(self, config: GlmConfig, lengths: Mapping[int, int]) -> None:
        self._lengths, self._places = lengths, {member: place for place, member in enumerate(lengths)}
        self.routes = Routes(
            config.experts, {layer: [torch.empty(0)] * len(lengths) for layer in sparse_layers(config)}
        )

    def note(self, layer: int, batch: Batch, chosen_Tk: Tensor) -> None:
        chosen_BTk = chosen_Tk.unflatten(0, (len(batch.members), batch.length))
        for row_Tk, member in zip(chosen_BTk, batch.members, strict=True):
            if member in self._places:
                met_Tk = row_Tk[: self._lengths[member]].sort(dim=-1).values.to(CPU, torch.int16)
                self.routes.chosen[layer][self._places[member]] = met_Tk


def sparse_layers(config: GlmConfig) -> range:
    """Layers with routed experts."""
    layers = config.num_hidden_layers
    return range(layers if config.experts is None else config.experts.first_layer, layers)


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
    """Which experts the tokens meet. Memory: a forward pass, and that of :class:`RouteRecorder`.

    Args:
        sequences: token ids, int64 ``[T]`` each, prefix included.

    Raises:
        CalibrationError: token ids outside the vocabulary.
        CheckpointError: activations that are not finite.
    """
    store, layers = store or ActivationStore(), model.config.num_hidden_layers
    recorder = RouteRecorder(model.config, dict(enumerate(map(len, sequences))))
    if model.config.experts is None:
        return recorder.routes
    with torch.inference_mode(), float32_products(store.device, exact=True):
        activations = embed_sequences(sequences, model.embedding(), model.config, store)
        walk(
            model.block,
            range(layers),
            [activations],
            Forward(on_experts=recorder.note),
            device=store.device,
            progress=progress,
            stage="routing, block by block",
            total=layers,
        )
        activations.hidden.close()
    return recorder.routes


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
