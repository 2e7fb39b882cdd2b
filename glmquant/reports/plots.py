"""The report's plots, as SVG."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from glmquant.core.units import size
from glmquant.evaluation.gate import Direction, LimitOutcome, Verdict
from glmquant.evaluation.metrics import LanguageMetrics, WindowMeans
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.routing_metrics import RoutingMetrics
from glmquant.evaluation.tasks import ClassifierQuality
from glmquant.reports.svg import LogScale, Scale, axes, drawing, element, line, log_scale, scale, text, title
from glmquant.store.manifest import GroupRecord

WIDTH = 1000
COLORS = 6
LARGEST_NLL = 700.0
"""Nats; the perplexity of more is no float."""

UNDECIDED = "none"
KEY_WIDTH = 340.0
WIDE = 20.0
"""Times the least value: beyond that a linear axis shows the largest alone."""
SHADES = 6
WHITE_INK = {"heat": 0.81, "heat wrong": 0.87}
"""Opacity of each color in the light style from which on white can be read on it, and before which black can, with a
ratio of 4.5; in the dark style white can on all."""
LEAST, MOST = 0.08, 1.0
"""Opacity of the smallest and the largest value of a scale of color."""
KINDS = (
    *(f"self_attn.{name}" for name in ("qkv_proj", "qkv_a_proj", "q_b_proj", "kv_b_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_up_proj", "down_proj")),
    *(f"mlp.shared_experts.{name}" for name in ("gate_up_proj", "down_proj")),
    "mlp.experts",
)
"""In the order data flows through them; what a part of one's own adds comes after."""


def verdict_class(verdict: Verdict | None) -> str:
    return UNDECIDED if verdict in (None, Verdict.NOT_JUDGED) else verdict.value


def limit_strip(outcome: LimitOutcome) -> Markup:
    """The interval as a bar, the estimate as a dot, the limit as a line with the forbidden side shaded."""
    measured = outcome.measured
    if measured is None:
        return Markup()
    known = [outcome.bound, measured.estimate, *(x for x in (measured.low, measured.high) if x is not None)]
    x = scale(known, 8, 292, room=0.18)
    at_most = outcome.direction is Direction.AT_MOST
    forbidden = (x(outcome.bound), x.end) if at_most else (x.start, x(outcome.bound))
    kind = verdict_class(outcome.verdict)
    parts = [
        element("rect", x=x.start, y=12, width=x.end - x.start, height=8, rx=4, class_="track"),
        element("rect", x=forbidden[0], y=12, width=forbidden[1] - forbidden[0], height=8, rx=4, class_="forbidden"),
        line(x(outcome.bound), 4, x(outcome.bound), 28, "limit"),
    ]
    if measured.low is not None and measured.high is not None:
        width = max(3.0, x(measured.high) - x(measured.low))
        parts.append(element("rect", x=x(measured.low), y=13, width=width, height=6, rx=3, class_=f"interval {kind}"))
    parts.append(element("circle", cx=x(measured.estimate), cy=16, r=5, class_=f"dot {kind}"))
    words = f"{outcome.metric}: {measured.estimate:.5g}, {outcome.bound_in_words}"
    return drawing(300, 32, words, title(words), *parts)


def divergence_along_text(metrics: LanguageMetrics) -> Markup:
    """Mean KL divergence of each window in reading order; one color per text, the mean dashed."""
    windows = metrics.windows
    x = Scale(0, len(windows), 60, WIDTH - 10)
    y = scale([window.kl for window in windows], 250, 40, from_zero=True)
    parts = axes(x, y, "window of the text", "mean KL divergence (nats)", _whole_ticks(len(windows)))
    width = max(1.0, (x.end - x.start) / len(windows) - 2)
    for index, window in enumerate(windows):
        color = f"fill{metrics.texts.index(window.text) % COLORS}"
        height = y.start - y(window.kl)
        parts.append(
            element(
                "rect", title(_about(window, index)), x=x(index) + 1, y=y(window.kl), width=width, height=height,
                rx=min(2.0, width / 2), class_=color,
            )
        )  # fmt: skip
    mean = metrics.kl.mean.estimate
    parts += [line(x.start, y(mean), x.end, y(mean), "mean"), *_legend(metrics.texts)]
    return drawing(WIDTH, 300, "KL divergence along the text", *parts)


def _about(window: WindowMeans, index: int) -> str:
    before, after = (math.exp(min(nll, LARGEST_NLL)) for nll in (window.baseline_nll, window.candidate_nll))
    return (
        f"window {index + 1}, {window.text}: KL {window.kl:.4g}, perplexity {before:.4g} → {after:.4g}, "
        f"top-1 agreement {window.same_top:.1%}"
    )


def _legend(names: Sequence[str]) -> list[Markup]:
    parts: list[Markup] = []
    left = WIDTH - 10.0
    for index, name in reversed(list(enumerate(names))):
        left -= 7.2 * len(name) + 28
        parts += [
            element("rect", x=left, y=8, width=12, height=12, rx=3, class_=f"fill{index % COLORS}"),
            text(name, left + 18, 18, class_="tick"),
        ]
    return parts


def _whole_ticks(count: int) -> list[float]:
    step = max(1, math.ceil(count / 16))
    return [float(i) for i in range(0, count + 1, step)]


def quality_against_size(reports: Sequence[AccuracyReport]) -> Markup:
    """KL divergence of every report against model size; the first report is the page's own."""
    points = [(r.setting.candidate, r.language, r.verdict) for r in reports]
    shown = [(facts, language.kl.mean, verdict) for facts, language, verdict in points if language is not None]
    whole = reports[0].setting.baseline.num_bytes
    sizes = [100 * facts.num_bytes / whole for facts, _, _ in shown]
    x = scale([0.0, *sizes], 60, WIDTH - 150, from_zero=True)
    estimates = [kl.estimate for _, kl, _ in shown]
    is_wide = min(estimates) > 0 and max(estimates) > WIDE * min(estimates)
    y: Scale | LogScale
    if is_wide:
        y = log_scale([each for _, kl, _ in shown for each in (kl.estimate, kl.high or kl.estimate)], 290, 40)
    else:
        y = scale([0.0, *(kl.high or kl.estimate for _, kl, _ in shown)], 290, 40, from_zero=True)
    unit = "mean KL divergence (nats, logarithmic)" if is_wide else "mean KL divergence (nats)"
    parts = axes(x, y, "size, % of the baseline", unit, x.ticks(8), "")
    for index, ((facts, kl, verdict), share) in enumerate(zip(shown, sizes, strict=True)):
        kind = verdict_class(verdict)
        words = f"{facts.name}: {size(facts.num_bytes)} ({share:.1f} %), KL {kl.estimate:.4g}, {verdict}"
        low, high = (kl.estimate if bound is None else bound for bound in (kl.low, kl.high))
        parts += [
            line(x(share), y(low), x(share), y(high), f"whisker {kind}"),
            element(
                "circle", title(words), cx=x(share), cy=y(kl.estimate), r=8 if index == 0 else 6, class_=f"dot {kind}"
            ),
            text(facts.name, x(share) + 11, y(kl.estimate) - 8, class_="name" if index == 0 else "tick"),
        ]
    return drawing(WIDTH, 340, "Quality against size", *parts)


def layer_map(groups: Sequence[GroupRecord]) -> Markup:
    """One cell per group of linear layers: its bits; the stronger its color, the larger its relative error
    (logarithmic)."""
    cells = {group.name: group for group in groups}
    layers = 1 + max((int(name.split(".")[1]) for name in cells if name.startswith("layers.")), default=0)
    found = {name.split(".", 2)[2] for name in cells if name.startswith("layers.")}
    kinds = [kind for kind in KINDS if kind in found] + sorted(found.difference(KINDS))
    errors = [error for group in groups if (error := relative_error(group))]
    shade = scale([math.log10(error) for error in errors], LEAST, MOST, room=0) if errors else None
    left, width = 130.0, min(64.0, (WIDTH - 240) / layers)
    parts = [text("layer", left - 10, 18, class_="label", text_anchor="end")]
    every = max(1, math.ceil(layers * 22 / (layers * width)))
    for layer in range(0, layers, every):
        parts.append(text(str(layer), left + (layer + 0.5) * width, 18, class_="tick", text_anchor="middle"))
    for row, kind in enumerate(kinds):
        top = 28 + 34 * row
        parts.append(text(_short(kind), left - 10, top + 20, class_="label", text_anchor="end"))
        for layer in range(layers):
            group = cells.get(f"layers.{layer}.{kind}")
            if group is not None:
                parts.append(_cell(group, left + layer * width, top, width, shade))
    if head := cells.get("lm_head"):
        place = left + layers * width + 12
        parts += [
            text("lm_head", place + 26, 18, class_="tick", text_anchor="middle"),
            _cell(head, place, 28, 52, shade, height=len(kinds) * 34 - 2),
        ]
    below = 28 + len(kinds) * 34 + 12
    if errors:
        parts += color_key(left, below, f"relative error {min(errors):.2g}", f"{max(errors):.2g}, logarithmic")
    return drawing(WIDTH, below + 24, "Error and bits of each layer", *parts)


def color_key(left: float, top: float, lowest: str, highest: str, class_: str = "heat") -> list[Markup]:
    """What a color means: from the least to the largest value, in words on both sides."""
    parts = [text(lowest, left, top + 13, class_="tick")]
    start = left + 7.0 * len(lowest) + 8
    for step in range(SHADES):
        opacity = LEAST + (MOST - LEAST) * step / (SHADES - 1)
        place: dict[str, float] = {"x": start + 22 * step, "y": top, "width": 22, "height": 16}
        parts += [
            element("rect", class_="cell", **place),
            element("rect", class_=class_, fill_opacity=opacity, **place),
        ]
    return [*parts, text(highest, start + 22 * SHADES + 8, top + 13, class_="tick")]


def _short(kind: str) -> str:
    """``shared gate_up_proj`` for ``mlp.shared_experts.gate_up_proj``."""
    return kind.partition(".")[2].replace("shared_experts.", "shared ")


def expert_load(routing: RoutingMetrics) -> Markup:
    """A row for each layer with routed experts, a cell for each expert: the stronger its color, the more tokens it met
    in the candidate, as a share of the layer's busiest."""
    left, high = 130.0, 18.0
    count = len(routing.layers[0].candidate_load)
    width = min(24.0, (WIDTH - left - 20) / count)
    parts = [text("layer", left - 10, 14, class_="label", text_anchor="end")]
    for row, layer in enumerate(routing.layers):
        top, most = 20 + high * row, max(1, *layer.candidate_load)
        parts.append(text(str(layer.layer), left - 10, top + 13, class_="tick", text_anchor="end"))
        for expert, (before, after) in enumerate(zip(layer.baseline_load, layer.candidate_load, strict=True)):
            words = f"layer {layer.layer}, expert {expert}: {after:,} tokens, {before:,} in the baseline"
            place = {"x": left + expert * width, "y": top, "width": width - 1, "height": high - 2}
            cell = element("rect", class_="cell", **place)
            parts.append(
                element("g", title(words), cell, element("rect", class_="heat", fill_opacity=after / most, **place))
            )
    below = 20 + high * len(routing.layers) + 8
    parts += color_key(left, below, "no token", "as many as the layer's busiest expert")
    return drawing(WIDTH, below + 24, "Tokens of each expert", *parts)


def relative_error(group: GroupRecord) -> float | None:
    """Relative error of the group's output where calibration measured it, else of its weights."""
    return group.weight_error if group.output_error is None else group.output_error


def _cell(
    group: GroupRecord, left: float, top: float, width: float, shade: Scale | None, height: float = 32.0
) -> Markup:
    error = relative_error(group)
    depth = shade(math.log10(error)) if error and shade else 0.0
    bits = "–" if group.spec is None else str(group.spec.bits)
    words = f"{group.name}: kept float"
    if group.spec is not None:
        words = f"{group.name}: {bits} bits, group {group.spec.group_size}, {group.method}, error {error or 0:.3g}"
    parts = [
        title(words),
        element("rect", x=left + 1, y=top, width=width - 2, height=height, rx=4, class_="cell"),
        element("rect", x=left + 1, y=top, width=width - 2, height=height, rx=4, class_="heat", fill_opacity=depth),
    ]
    if width >= 16:
        ink = "on-heat" if depth > WHITE_INK["heat"] else "on-cell"
        parts.append(text(bits, left + width / 2, top + height / 2 + 4, class_=ink, text_anchor="middle"))
    return element("g", *parts)


def confusion(quality: ClassifierQuality, heading: str) -> Markup:
    """Rows are true labels, columns predictions; the stronger the color, the larger the share of the row."""
    labels = [each.label for each in quality.classes]
    short = [label if len(label) <= 12 else label[:11] + "…" for label in labels]
    side = max(26.0, min(84.0, 320 / len(labels)))
    left, top = 110.0, 58.0
    parts = [
        text(heading, 0, 14, class_="name"),
        text("predicted", left + side * len(labels) / 2, 34, class_="tick", text_anchor="middle"),
    ]
    for index, label in enumerate(short):
        center = side * (index + 0.5)
        parts += [
            text(label, left - 8, top + center + 4, class_="tick", text_anchor="end"),
            text(label, left + center, top - 8, class_="tick", text_anchor="middle"),
        ]
    for i, row in enumerate(quality.confusion):
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            place = {"x": left + side * j + 1, "y": top + side * i + 1, "width": side - 2, "height": side - 2, "rx": 4}
            words = f"{labels[i]} predicted as {labels[j]}: {count} of {sum(row)}"
            tint = "heat" if i == j else "heat wrong"
            ink = "on-heat" if share > WHITE_INK[tint] else "on-cell"
            middle = (left + side * (j + 0.5), top + side * (i + 0.5) + 4)
            parts += [
                element("rect", class_="cell", **place),
                element("rect", title(words), class_=tint, fill_opacity=share, **place),
                text(str(count), *middle, class_=ink, text_anchor="middle", pointer_events="none"),
            ]
    bottom = top + side * len(labels) + 10
    parts += color_key(0, bottom, "right: 0 %", "100 % of a label")
    parts += color_key(0, bottom + 22, "wrong: 0 %", "100 %", "heat wrong")
    width = max(left + side * len(labels) + 8, KEY_WIDTH)
    return drawing(width, bottom + 46, f"Confusion matrix, {heading}", *parts)
