"""Outcomes as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.sparse_model.outcomes import Outcome
from benchmarks.sparse_model.rows import NOTHING
from glmquant.evaluation.statistics import Interval, mean_interval


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""]


def kl_difference(first: Outcome, second: Outcome) -> Interval:
    """The first's mean KL less the second's, paired over the windows of all texts."""
    pairs = [zip(first.texts[name].windows, second.texts[name].windows, strict=True) for name in first.texts]
    return mean_interval(np.array([one.kl - other.kl for text in pairs for one, other in text]))


def cost_table(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """RTN and GPTQ in turn."""
    head = ["quantized", "bits a weight"]
    head += [f"{text}: {what}" for text in ("en", "zh") for what in ("perplexity / float", "mean KL, nats")]
    head += ["same experts, %", "same in the bundle, %", "KL less RTN's, nats"]
    rows = []
    for baseline, better in pairs:
        rows += [[*_cost(baseline), ""], [*_cost(better), f"{kl_difference(better, baseline):.2g}"]]
    return table(head, rows)


def _cost(outcome: Outcome) -> list[str]:
    cells = [outcome.row.name, f"{outcome.average_bits:.3f}"]
    for metrics in outcome.texts.values():
        cells += [f"{metrics.perplexity_ratio:.4f}", f"{metrics.kl.mean:.3g}"]
    shipped = outcome.shipped_agreement()
    return [*cells, _percent(outcome.agreement()), "" if shipped is None else _percent(shipped)]


def layers_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Agreement layer by layer."""
    layers = list(outcomes[0].layers)
    rows = [[one.row.name, *(_percent(one.agreement(layer)) for layer in layers)] for one in outcomes]
    return table(["quantized", *(f"layer {layer}" for layer in layers)], rows)


def load_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Tokens of the least and the most loaded expert, as shares of the mean."""
    layers = list(outcomes[0].layers)
    rows = [["float", *(_extremes(outcomes[0].layers[layer].float_load) for layer in layers)]]
    rows += [[one.row.name, *(_extremes(one.layers[layer].load) for layer in layers)] for one in outcomes]
    return table(["model", *(f"layer {layer}" for layer in layers)], rows)


def _extremes(load: Sequence[int]) -> str:
    mean = sum(load) / len(load)
    return f"{min(load) / mean:.2f} to {max(load) / mean:.2f}"


def shrinkage_table(outcomes: Sequence[Outcome], usual: Outcome) -> list[str]:
    """One number of samples.

    Args:
        usual: the row that the others are paired with.
    """
    rows = []
    for one in outcomes:
        means = [f"{metrics.kl.mean:.4g}" for metrics in one.texts.values()]
        difference = "" if one is usual else f"{kl_difference(one, usual):.2g}"
        rows.append([_shared(one), *means, difference])
    head = ["shared tokens", "en: mean KL, nats", "zh: mean KL, nats", f"KL less that at {usual.row.shared_tokens:g}"]
    return table(head, rows)


def shrinkage_verdict(outcomes: Sequence[Outcome], usual: Outcome) -> str:
    """Which rows are better or worse than the usual one beyond the interval, in words."""
    differences = {_shared(one): kl_difference(one, usual) for one in outcomes if one is not usual}
    words = {
        "better": [name for name, each in differences.items() if each.high is not None and each.high < 0],
        "worse": [name for name, each in differences.items() if each.low is not None and each.low > 0],
    }
    found = [f"{' and '.join(names)} {word}" for word, names in words.items() if names]
    return f"{', '.join(found) or 'none'} beyond the interval"


def _shared(outcome: Outcome) -> str:
    tokens = outcome.row.shared_tokens
    return "0" if tokens == NOTHING else f"{tokens:g}"


def training_table(figures: dict[str, Any]) -> list[str]:
    per_language = [
        [name, *(f"{figures[name][language]:,.{digits}f}" for language in ("en", "zh"))]
        for name, digits in (("training tokens", 0), ("unigram", 2), ("perplexity", 2))
    ]
    return table(["", "en", "zh"], per_language)


def _percent(share: Interval) -> str:
    low, high = (share.estimate if bound is None else bound for bound in (share.low, share.high))
    return f"{100 * share.estimate:.2f} ({100 * low:.2f} to {100 * high:.2f})"
