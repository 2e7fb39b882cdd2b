"""The page of results."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.accuracy.measure import kl_difference
from benchmarks.accuracy.rows import BEST, RTN
from benchmarks.unseen.kept import Kept
from benchmarks.unseen.texts import NAMES
from glmquant.evaluation.statistics import Interval


def page(rows: Sequence[Kept], samples: int, length: int, windows: int) -> str:
    by_name = {row.name: row for row in rows}
    lines = [
        "# A model that no recipe was tuned on, on text that calibration never saw",
        "",
        f"`python -m benchmarks.unseen.run`. Qwen2.5-Coder-0.5B as a GLM, calibrated on {samples} x {length} tokens of "
        f"the Debian Administrator's Handbook in English and Chinese, measured on the last {windows} windows of "
        f"{length} tokens of five other texts; both models in float32, the blocks' linear layers as the files stand "
        "for them, embedding and head as they were. Intervals (95 %) are paired, over windows.",
        "",
        "## Mean KL divergence from the float model, nats",
        "",
        *_table(rows, lambda row, text: _figure(row.texts[text].metrics.kl.mean)),
        "",
        "## Perplexity over the float model's",
        "",
        *_table(rows, lambda row, text: _figure(row.texts[text].metrics.perplexity_ratio)),
    ]
    for base in (RTN.name, BEST.name):
        if base in by_name:
            others = [row for row in rows if row.name != base]
            lines += [
                "",
                f"## Mean KL less that of {base}, on the same windows",
                "",
                *_table(others, partial(_gap, by_name[base])),
            ]
    lines += [
        "",
        "## How each was made",
        "",
        "| row | bits | wall s | CPU s | peak GB | made on |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cost = row.cost
        lines.append(
            f"| {row.name} | {row.average_bits:.3f} | {cost.wall:.0f} | {cost.cpu:.0f} | {cost.peak / 1e9:.1f} | "
            f"{row.date}, {row.machine} |"
        )
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Kept], figure: Callable[[Kept, str], str]) -> Iterator[str]:
    head = ["quantized by", *NAMES]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        cells = [figure(row, text) if text in row.texts else "not measured yet" for text in NAMES]
        yield f"| {row.name} | {' | '.join(cells)} |"


def _gap(base: Kept, row: Kept, text: str) -> str:
    if text not in base.texts:
        return "not measured yet"
    gap = kl_difference(row.texts[text].metrics, base.texts[text].metrics)
    return f"{gap.estimate:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"


def _figure(interval: Interval) -> str:
    return f"{interval.estimate:.4f} ({interval.low:.4f} to {interval.high:.4f})"
