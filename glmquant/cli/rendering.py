"""Results as plain text for a terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from glmquant.core.units import duration, size
from glmquant.inert import inert_line

if TYPE_CHECKING:
    from glmquant.hub.push import Push
    from glmquant.quantization.bundle_size import BundleForecast
    from glmquant.quantization.diagnosis import Comparison, GroupComparison
    from glmquant.quantization.forecast import Forecast
    from glmquant.quantization.summary import AdapterSummary, GroupSummary, ModelSummary
    from glmquant.quantization.text_summary import TextSummary

QUANTIZATIONS: Final = {"gptq": "GPTQ-quantized", "rows": "quantized by its publisher, one scale per row"}
NETWORKS: Final = (1, 10, 100)
"""Gigabits a second."""
GROUPS_SHOWN: Final = 12
GROUPS_TO_RAISE: Final = 3
OF_A_LAYER: Final = re.compile(r"layers\.(\d+)\.(.+)")


def summary_text(summary: "ModelSummary") -> str:
    """A checkpoint at a glance, what is wrong with it, and what the recipe makes of each linear layer."""
    config = summary.config
    weights = QUANTIZATIONS[summary.quantization] if summary.quantization else config.float_dtype
    lines = [
        summary.path,
        f"  {config.family}, {config.architecture} blocks, {summary.num_parameters / 1e6:,.1f} million parameters",
        f"  {config.num_hidden_layers} layers, hidden size {config.hidden_size}, {config.num_attention_heads} query "
        f"heads and {config.num_key_value_heads} key/value heads of {config.head_dim}, vocabulary {config.vocab_size}",
        f"  {weights}, {size(summary.num_bytes)}",
    ]
    if summary.adapter is not None:
        lines += _adapter(summary.adapter, config.num_hidden_layers)
    if summary.readers:
        lines.append(f"  can be loaded by {', '.join(summary.readers)}")
    if summary.text is not None:
        lines += _text(summary.text, config.vocab_size, config.family)
    lines += [f"  cannot be used: {problem.what}" for problem in summary.problems]
    if summary.average_bits is not None:
        lines.append(f"  the recipe: {summary.average_bits:.2f} bits per weight over the linear layers:")
        lines += [f"    {row.name:32} {_spec(row.group)}  {row.size}" for row in _folded(summary.groups)]
    if summary.bundle is not None:
        lines.append(_bundle(summary.bundle))
    if summary.forecast is not None:
        lines += _forecast(summary.forecast)
    return "\n".join(map(inert_line, lines))


@dataclass(frozen=True)
class _Row:
    """A linear layer, or the same of layers ``first`` to ``last``."""

    group: "GroupSummary"
    first: int = 0
    last: int = 0

    @property
    def name(self) -> str:
        layers = f"layers.{self.first}-{self.last}." if self.last > self.first else f"layers.{self.first}."
        return OF_A_LAYER.sub(lambda found: layers + found[2], self.group.name)

    @property
    def size(self) -> str:
        count = self.last - self.first + 1
        return size(self.group.num_bytes) if count == 1 else f"{count} × {size(self.group.num_bytes)}"


def _folded(groups: Sequence["GroupSummary"]) -> list[_Row]:
    """One row for a linear layer that is the same in layers that follow each other, where the first of them stands."""
    rows: list[_Row] = []
    latest: dict[str, int] = {}
    for group in groups:
        found = OF_A_LAYER.fullmatch(group.name)
        if found is None:
            rows.append(_Row(group))
            continue
        layer, member = int(found[1]), found[2]
        before = rows[latest[member]] if member in latest else None
        if before is not None and before.last == layer - 1 and replace(before.group, name=group.name) == group:
            rows[latest[member]] = replace(before, last=layer)
            continue
        latest[member] = len(rows)
        rows.append(_Row(group, layer, layer))
    return rows


def _bundle(bundle: "BundleForecast") -> str:
    cache = f", {size(bundle.cache_bytes)} of cache a token" if bundle.cache_bytes else ""
    return (
        f"  the bundle: {size(bundle.num_bytes)}{cache}; about {size(bundle.memory_bytes)} of memory to run it "
        f"with {bundle.context:,} tokens"
    )


def _adapter(adapter: "AdapterSummary", layers: int) -> list[str]:
    ranks = "rank " + " and ".join(map(str, adapter.ranks)) if adapter.ranks else "no additions"
    line = f"  with the LoRA adapter {adapter.name}: {ranks}"
    if adapter.targets:
        line += f", {adapter.num_modules} linear layers ({', '.join(adapter.targets)})"
    line += f" in {adapter.num_layers} of {layers} blocks"
    saved = [f"    trained as a whole: {', '.join(adapter.saved)}"] if adapter.saved else []
    return [line, *saved, *(f"    note: {note}" for note in adapter.notes)]


def _text(text: "TextSummary", vocabulary: int, family: str) -> list[str]:
    templates = {"checkpoint": f"its own, from {text.template_from}", "family": f"that of {family}", None: "none"}
    others = f"; also {', '.join(text.other_templates)}" if text.other_templates else ""
    ends = ", ".join(f"{stop.id} {stop.text or ''}".strip() for stop in text.stop_tokens)
    lines = [
        f"  tokenizer: {text.tokenizer}, {text.num_ids} ids of the vocabulary's {vocabulary}",
        f"  chat template: {templates[text.template]}{others}",
        f"  an answer ends at {ends}",
    ]
    if text.sampling:
        lines.append("  by default: " + ", ".join(f"{name} {value}" for name, value in text.sampling.items()))
    return [*lines, *(f"  note: {note}" for note in text.notes)]


def _forecast(forecast: "Forecast") -> list[str]:
    shared = f"on {forecast.ranks} ranks with as many cores each" if forecast.ranks > 1 else "on this machine"
    lines = [f"  {shared}, about {duration(forecast.seconds)} and {size(forecast.disk_bytes)} of disk:"]
    for stage in forecast.stages:
        rate = "" if stage.gigaflops is None else f", {stage.gigaflops:.0f} GFLOP/s"
        lines.append(f"    {stage.name:10} {duration(stage.seconds)}, peak memory {size(stage.peak_bytes)}{rate}")
    if forecast.ranks > 1:
        lines.append(_network(forecast.sent_bytes))
    return [*lines, *(f"    {sentence}" for sentence in forecast.how)]


def _network(sent_bytes: int) -> str:
    seconds = ", ".join(f"{duration(sent_bytes * 8 / 1e9 / speed)} at {speed} Gb/s" for speed in NETWORKS)
    return f"    each rank sends {size(sent_bytes)} a block, which comes on top: {seconds}"


def _spec(group: "GroupSummary") -> str:
    if group.spec is None:
        return "kept float"
    kind = "symmetric" if group.spec.symmetric else "asymmetric"
    return f"{group.spec.bits} bits, group size {group.spec.group_size}, {kind}"


def comparison_text(comparison: "Comparison") -> str:
    """A table of the linear layers that cost most, and what raising the best few of them to 8 bits gains and costs."""
    lines = [
        f"{comparison.second} ({comparison.second_bytes / 1e6:,.1f} MB) compared with "
        f"{comparison.first} ({comparison.first_bytes / 1e6:,.1f} MB)",
        f"  {'linear layer':34} {'bits':>7} {'error':>9} {'share':>7} {'was':>9} {'at 8 bits':>10} {'adds':>10}",
    ]
    lines += [_comparison_row(group) for group in comparison.groups[:GROUPS_SHOWN]]
    if len(comparison.groups) > GROUPS_SHOWN:
        lines.append(f"  … and {len(comparison.groups) - GROUPS_SHOWN} more")
    return "\n".join(map(inert_line, [*lines, *_advice(comparison)]))


def _comparison_row(group: "GroupComparison") -> str:
    bits = f"{_bits(group.first_bits)} → {_bits(group.second_bits)}"
    return (
        f"  {group.name:34} {bits:>7} {group.second_error:9.2e} {group.share:7.1%} {group.first_error:9.2e} "
        f"{group.raised_error:10.2e} {group.raised_bytes / 1e3:7,.0f} kB"
    )


def _advice(comparison: "Comparison") -> list[str]:
    best = sorted(comparison.groups, key=lambda group: -group.gain_per_byte)[:GROUPS_TO_RAISE]
    if best[0].gain_per_byte <= 0:
        return []
    gained = sum(group.share * (1 - group.raised_error / group.second_error) for group in best if group.second_error)
    added = sum(group.raised_bytes for group in best)
    names = ", ".join(group.name for group in best)
    return [f"  8 bits for {names} would take {gained:.1%} off the summed error and add {added / 1e3:,.0f} kB"]


def _bits(bits: int | None) -> str:
    return "–" if bits is None else str(bits)


def push_text(pushed: "Push") -> str:
    """What was uploaded or would be, and whose license holds for it."""
    done = "uploaded" if pushed.commit else "would upload"
    lines = [f"{done} {len(pushed.files)} files, {size(pushed.num_bytes)}, to {pushed.url}"]
    width = max(map(len, pushed.files))
    lines += [f"  {inert_line(name):{width}}  {size(num_bytes)}" for name, num_bytes in pushed.files.items()]
    terms = f"{pushed.license}, as its card says" if pushed.license else "not named by the bundle's card"
    beside = f"; its terms: {', '.join(pushed.license_files)}" if pushed.license_files else ""
    lines.append(
        f"license of the base model, {inert_line(pushed.base_model)}: {inert_line(terms + beside)}. It holds for what "
        "you publish: see that it allows that"
    )
    if "README.md" not in pushed.files:
        lines.append("no model card: `run` writes one into its bundle, `check --out DIR` one beside its report")
    lines.append(pushed.commit or "nothing was uploaded: the same with --yes does it")
    return "\n".join(lines)
