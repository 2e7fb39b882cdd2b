"""Routing agreement of a bundle with its baseline, as a metric with an interval.

Perplexity hides mistakes of routing: a model whose tokens meet other experts may still predict well on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.several import Several
from glmquant.data.sequences import Ids
from glmquant.evaluation.routing import LayerRouting, Routes, compare_routes
from glmquant.evaluation.statistics import Interval, mean_interval
from glmquant.runtime.routing import bundle_choices

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
    baseline_load: Several[int]
    candidate_load: Several[int]


@dataclass(frozen=True)
class RoutingMetrics:
    """All layers with routed experts.

    Attributes:
        num_tokens: that both models routed.
        change: share of tokens and layers whose set of experts is another than the baseline's, by window.
    """

    num_tokens: int
    change: Interval
    layers: Several[LayerAgreement]


def measure_routing(
    bundle: Path, baseline: Routes, windows: Sequence[Ids], ranks: Ranks = ALONE, num_threads: int | None = None
) -> RoutingMetrics:
    """Which experts the windows' tokens meet in both.

    Args:
        baseline: of the same windows.
        ranks: who share the windows.
        num_threads: as in :meth:`glmquant.runtime.model.OnnxModel.open`.

    Raises:
        CheckError: experts that are not the same in number.
        ExportError: a bundle that cannot be run.
    """
    parts = ranks.gather(bundle_choices(bundle, ranks.dealt(windows), num_threads))
    after = {
        layer: [torch.from_numpy(parts[n % ranks.count][layer][n // ranks.count]) for n in range(len(windows))]
        for layer in parts[0]
    }
    return _summary(compare_routes(baseline, Routes(baseline.experts, after)))


def routed_windows(lengths: Sequence[int]) -> set[int]:
    """Which windows are read for routing, evenly spread, up to ``MOST_TOKENS`` tokens; ``lengths`` of all of them."""
    if not lengths:
        return set()
    count = max(2, MOST_TOKENS // max(lengths))
    return set(np.linspace(0, len(lengths) - 1, min(count, len(lengths))).round().astype(int).tolist())


def _summary(layers: Sequence[LayerRouting]) -> RoutingMetrics:
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
