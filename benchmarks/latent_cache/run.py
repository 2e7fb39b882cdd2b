"""One layer's latent attention in ONNX Runtime, keeping keys and values or keeping latents: time and memory by length.

    python -m benchmarks.latent_cache.run --work DIR

GLM-4.7-Flash's published shapes, random weights, in the forms that ``forms.py`` tells of. One thread, and the
processor's time rather than the clock's; the forms take turns, so that none finds its weights in the cache.
A length that ``--work``/rows.json holds is not measured again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.common.machine import describe_machine
from benchmarks.latent_cache.forms import EXPANDED, EXPANDED_INT8, FORMS, HEADS, Form, Weights, make_weights
from benchmarks.latent_cache.layer import Layer, float_cache, make_text, medians

PASTS = (256, 2048, 8192, 32768)
PROMPTS = (256,)
REPETITIONS, REPETITIONS_OF_PROMPTS = 7, 3
CASES = (
    *((past, 1, REPETITIONS) for past in PASTS),
    *((0, prompt, REPETITIONS_OF_PROMPTS) for prompt in PROMPTS),
)
LAYERS = 47
TOLERANCES = {"float": 1e-5, "float16": 2e-3, "int8": 5e-2}


@dataclass(frozen=True)
class Measured:
    """Of each form: seconds a step, and its largest difference from the exact one, as a share of the largest value."""

    seconds: list[float]
    errors: list[float]


def measure(weights: Weights, past: int, new: int, repetitions: int) -> Measured:
    text = make_text(past, new, np.random.default_rng(1))
    caches = {(form.heads, form.width): form for form in FORMS}
    made = {shape: float_cache(form, weights, text) for shape, form in caches.items()}
    exact = Layer(EXPANDED, weights, text, made[EXPANDED.heads, EXPANDED.width], accuracy_level=0).attended()
    layers = [Layer(form, weights, text, made[form.heads, form.width]) for form in FORMS]
    errors = []
    for form, layer in zip(FORMS, layers, strict=True):
        errors.append(float(np.abs(layer.attended() - exact).max() / np.abs(exact).max()))
        if form.heads != HEADS and errors[-1] > TOLERANCES[form.kind]:
            raise SystemExit(f"{form.title} after {past} tokens differs by {errors[-1]:.1e}")
    del made
    return Measured(medians(layers, repetitions), errors)


def weight_bytes(form: Form, weights: Weights) -> int:
    return weights.packed_bytes if form.heads == HEADS else weights.float_bytes


def held(form: Form, weights: Weights, tokens: int) -> int:
    """Bytes of all layers while a token is decoded; where a step copies the cache, old and new are there together."""
    copies = 1 if form.in_place else 2
    return LAYERS * (weight_bytes(form, weights) + copies * form.cache_bytes * tokens)


def break_even(form: Form, weights: Weights) -> str:
    """The length from which on a form holds less than expanded keys and values in INT8."""
    saved = (held(EXPANDED_INT8, weights, 1) - held(EXPANDED_INT8, weights, 0)) - (
        held(form, weights, 1) - held(form, weights, 0)
    )
    more = held(form, weights, 0) - held(EXPANDED_INT8, weights, 0)
    return "" if saved <= 0 or more <= 0 else f"{more / saved:,.0f}"


def report(weights: Weights, results: Sequence[Measured]) -> str:
    decode, prefill = results[: len(PASTS)], results[len(PASTS) :]

    def table(first: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return [
            f"| {first} | {' | '.join(heads)} |",
            "|---|" + "--:|" * len(heads),
            *(f"| {form.title} | {' | '.join(row)} |" for form, row in zip(FORMS, rows, strict=True)),
        ]

    def times(measured: Sequence[Measured], number: int) -> list[str]:
        return [f"{each.seconds[number] * 1e3:.1f}" for each in measured]

    lengths = [f"{past:,}" for past in PASTS]
    numbers = range(len(FORMS))
    return "\n".join(
        [
            "# Latent attention that keeps latents",
            "",
            f"`python -m benchmarks.latent_cache.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; onnxruntime "
            f"{ort.__version__}. One layer of GLM-4.7-Flash from `kv_b_proj`'s input to `o_proj`'s; one thread, its "
            f"processor time, medians of {REPETITIONS} alternating runs, for prefill of "
            f"{REPETITIONS_OF_PROMPTS}. What it means: [notes.md](notes.md).",
            "",
            "## Time, ms a layer",
            "",
            *table(
                "decode, one token, after",
                [*lengths, *(f"prefill of {prompt:,}" for prompt in PROMPTS)],
                [times(decode, i) + times(prefill, i) for i in numbers],
            ),
            "",
            against_expanded(results),
            "",
            "## Memory",
            "",
            f"Of {LAYERS} layers, weights of `kv_b_proj` and cache, while a token is decoded, in GB. A form without an "
            "operator that writes in place holds the old cache and the new one.",
            "",
            *table(
                "",
                ["weights, MB a layer", "cache, KB a token", *lengths, "less than expanded INT8 from"],
                [
                    [
                        f"{weight_bytes(form, weights) / 1e6:.1f}",
                        f"{LAYERS * form.cache_bytes / 1e3:.0f}",
                        *(f"{held(form, weights, past) / 1e9:.2f}" for past in PASTS),
                        break_even(form, weights),
                    ]
                    for form in FORMS
                ],
            ),
            "",
            "## Equality",
            "",
            "Largest difference from the expanded float32 form at accuracy level 0, as a share of its largest value: "
            "most of any length. The expanded forms above run at level 4, which rounds what `kv_b_proj` reads.",
            "",
            *table("", ["difference"], [[f"{max(each.errors[i] for each in results):.1e}"] for i in numbers]),
            "",
        ]
    )


def _name(past: int, new: int, repetitions: int) -> str:
    return f"{past} before, {new} new, {repetitions} runs"


def against_expanded(results: Sequence[Measured]) -> str:
    """The fastest form with latents beside expanded keys and values in INT8, by case."""
    expanded, latent = FORMS.index(EXPANDED_INT8), [i for i, form in enumerate(FORMS) if form.heads != HEADS]
    ratios = [min(each.seconds[i] for i in latent) / each.seconds[expanded] for each in results]
    names = [*(f"after {past:,}" for past in PASTS), *(f"prefill of {prompt:,}" for prompt in PROMPTS)]
    told = ", ".join(f"{ratio:.2f} × {name}" for ratio, name in zip(ratios, names, strict=True))
    return f"The fastest form that keeps latents takes, of the time of expanded INT8: {told}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    weights = make_weights(np.random.default_rng(0))
    args.work.mkdir(parents=True, exist_ok=True)
    stored = args.work / "rows.json"
    rows = json.loads(stored.read_text()) if stored.exists() else {}
    for case in CASES:
        name = _name(*case)
        if name not in rows:
            rows[name] = asdict(measure(weights, *case))
            stored.write_text(json.dumps(rows, indent=1))
            print(name, rows[name], flush=True)
    text = report(weights, [Measured(**rows[_name(*case)]) for case in CASES])
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
