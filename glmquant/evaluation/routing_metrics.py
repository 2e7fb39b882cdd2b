"""Routing agreement of a bundle with its baseline, as a metric with an interval.

Perplexity hides mistakes of routing: a model whose tokens meet other experts may still predict well on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from glmquant.data.sequences import Ids
from glmquant.evaluation.routing import LayerRouting, Routes, compare_routes, routes
from glmquant.evaluation.statistics import Interval, mean_interval
from glmquant.progress import Progress
from glmquant.runtime.routing import bundle_choices
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import ActivationStore

MOST_TOKENS: Final = 4096
"""Read for routing: each gives a sample from every layer."""


@dataclass(frozen=True)
class LayerAgreement:
    """One layer with routed experts.

    Attributes:
        differing: share of tokens whose set of experts is another than the baseline's.
        baseline_load, candidate_load: tokens that each expert met.
    """

    layer: int
    differing: float
    baseline_load: tuple[int, ...]
    candidate_load: tuple[int, ...]


@dataclass(frozen=True)
class RoutingMetrics:
    """All layers with routed experts.

    Attributes:
        num_tokens: that both models routed.
        change: share of tokens and layers whose set of experts is another than the baseline's, by window.
    """

    num_tokens: int
    change: Interval
    layers: tuple[LayerAgreement, ...]


def measure_routing(
    bundle: Path, baseline: Checkpoint, windows: Sequence[Ids], store: ActivationStore, progress: Progress
) -> RoutingMetrics | None:
    """Which experts the tokens of up to ``MOST_TOKENS`` in even windows meet in both; None without routed experts.

    Raises:
        CheckError: experts that are not the same in number.
        ExportError: a bundle that cannot be run.
    """
    experts = baseline.config.experts
    if experts is None or not windows:
        return None
    chosen = _some(windows)
    before = routes(baseline, chosen, store, progress)
    found = bundle_choices(bundle, chosen)
    after = Routes(experts, {layer: [torch.from_numpy(each) for each in rows] for layer, rows in found.items()})
    return _summary(compare_routes(before, after))


def _some(windows: Sequence[Ids]) -> list[Ids]:
    """Spread evenly over all of them."""
    count = max(2, MOST_TOKENS // max(len(window) for window in windows))
    places = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    return [windows[place] for place in dict.fromkeys(places.tolist())]


def _summary(layers: Sequence[LayerRouting]) -> RoutingMetrics | None:
    if not layers:
        return None
    tokens_S = layers[0].tokens_S
    shares_S = np.mean([layer.differing_S / tokens_S for layer in layers], axis=0)
    agreements = (
        LayerAgreement(
            layer.layer,
            layer.differing,
            tuple(layer.baseline_load_X.tolist()),
            tuple(layer.candidate_load_X.tolist()),
        )
        for layer in layers
    )
    return RoutingMetrics(int(tokens_S.sum()), mean_interval(shares_S, lowest=0, highest=1), tuple(agreements))
