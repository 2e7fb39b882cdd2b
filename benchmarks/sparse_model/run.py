"""What quantizing routed experts costs, on a model whose routing was learned: perplexity, KL, and the experts chosen.

    apt-get download debian-handbook && dpkg -x debian-handbook_*.deb DEB
    python -m benchmarks.sparse_model.train --handbook-html DEB/usr/share/doc/debian-handbook/html --work WORK
    python -m benchmarks.sparse_model.run --work WORK

Rows are kept in WORK and made again when something that decides them has changed; ``--out`` is written at the end.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import glmquant
from benchmarks.common.machine import describe_machine
from benchmarks.sparse_model import tables
from benchmarks.sparse_model.outcomes import WINDOWS, Bench, Outcome
from benchmarks.sparse_model.rows import BY_LAYER, LENGTH, PAIRS, SAMPLES, SHRINKAGE, Row
from glmquant.quantization.expert_pass import SHARED_TOKENS


def preface(bench: Bench, figures: dict[str, object]) -> list[str]:
    size = sum(path.stat().st_size for path in bench.checkpoint.path.glob("*.safetensors"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return [
        "# A model with routed experts, really trained",
        "",
        "```",
        "apt-get download debian-handbook && dpkg -x debian-handbook_*.deb DEB",
        "python -m benchmarks.sparse_model.train --handbook-html DEB/usr/share/doc/debian-handbook/html --work WORK",
        "python -m benchmarks.sparse_model.run --work WORK",
        "```",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, glmquant {glmquant.__version__}, {versions}, {describe_machine()}.",
        "",
        "## The model",
        "",
        f"transformers' `Glm4MoeLiteForCausalLM` (GLM-4.7-Flash), {figures['parameters']:,} parameters, {size:,} bytes "
        "in bfloat16: 5 layers, the first dense, 8 routed experts of which a token meets 2, and a shared one. Trained "
        f"from scratch on the demonstration model's handbook text with its tokenizer, {figures['steps']} steps, "
        f"{figures['tokens']:,} tokens scored, {figures['seconds']:,} s in steps on 2 busy cores. The router's "
        "correction bias is trained as DeepSeek-V3's ([arXiv:2412.19437](https://arxiv.org/abs/2412.19437), 2.1.2): no "
        "auxiliary loss; after each step it moves by 0.003 towards an even load. Perplexity: the weights as written, "
        "float32 arithmetic, held-out text, as in [demo_model](../demo_model/result.md); the target was a third of the "
        "unigram's.",
        *tables.training_table(figures),
    ]


def cost(pairs: list[tuple[Outcome, Outcome]]) -> list[str]:
    rows = [one for pair in pairs for one in pair if f"groups of {BY_LAYER}" in one.row.name]
    return [
        "## What quantizing costs",
        "",
        f"The last {WINDOWS} windows of {LENGTH} tokens of each held-out text, both models in float32. Codes are "
        f"symmetric; GPTQ as in the recipe `int4-g128-gptq` but for the groups, on {SAMPLES} x {LENGTH} tokens of the "
        "packaged `calibration.txt`. *bits a weight*: of those quantized, with their scales. *Same experts*: tokens "
        "whose set of experts is the float model's, over layers and the windows of both texts. *Same in the bundle*: "
        "the same of the exported bundle in ONNX Runtime, as `export` writes it by default, against "
        "the float model in float32; 8-bit experts read activations rounded to INT8 there. *KL less RTN's*: over "
        "both texts. Intervals (95 %) are over windows, paired.",
        *tables.cost_table(pairs),
        "Same experts, layer by layer, %:",
        *tables.layers_table(rows),
        "Tokens of the least and of the most loaded expert over the mean:",
        *tables.load_table(rows),
    ]


def shrinkage(found: dict[int, list[Outcome]]) -> list[str]:
    lines = [
        "## How much of all tokens an expert is fitted to",
        "",
        "Experts alone, 4 bits, groups of 64, GPTQ as above; *shared tokens* in place of "
        f"`expert_pass.SHARED_TOKENS`, {SHARED_TOKENS}.",
    ]
    for samples, outcomes in found.items():
        usual = next(one for one in outcomes if one.row.shared_tokens == SHARED_TOKENS)
        verdict = tables.shrinkage_verdict(outcomes, usual)
        lines += ["", f"{samples} x {LENGTH} calibration tokens; {verdict}:", *tables.shrinkage_table(outcomes, usual)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="of benchmarks.sparse_model.train")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    bench = Bench(args.work.resolve())
    figures = json.loads((args.work / "training.json").read_text())

    def made(row: Row) -> Outcome:
        outcome = bench.outcome(row)
        kl = ", ".join(f"{name} {metrics.kl.mean:.3g}" for name, metrics in outcome.texts.items())
        print(f"{row.name}: KL {kl}, same experts {outcome.agreement():.4f}", file=sys.stderr, flush=True)
        return outcome

    pairs = [(made(baseline), made(better)) for baseline, better in PAIRS]
    found = {samples: [made(row) for row in rows] for samples, rows in SHRINKAGE.items()}
    lines = [*preface(bench, figures), *cost(pairs), *shrinkage(found)]
    text = "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
