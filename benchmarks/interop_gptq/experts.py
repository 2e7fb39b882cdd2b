"""Does GPTQModel read every linear layer of a model with routed experts that glmquant quantized?

    python -m benchmarks.interop_gptq.experts --model DIR [DIR ...] --gptqmodel-python ENV/bin/python --work DIR

Float checkpoints of ``glm4_moe`` or ``glm4_moe_lite``, with a tokenizer. Each is rounded to 4 bits in groups of 32, and
each linear layer's weights are compared with what GPTQModel makes of them.
"""

import argparse
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.common.machine import describe_machine
from glmquant.glm.parts.routing import EXPERT_LINEARS
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

RESULTS = Path(__file__).with_name("result_experts.md")
RULES = [{"match": "layers.*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "rtn"}}]


def modules(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every linear layer's dequantized weight, by the name other software has for it."""
    config, found = checkpoint.config, dict[str, Tensor]()
    for layer in range(config.num_hidden_layers):
        for part in checkpoint.block(layer).parts:
            pairs = [(group, part.linears[group.within(part.kind.scope)]) for group in part.kind.groups(config, layer)]
            for expert in range(0 if part.experts is None else part.experts.count):
                assert part.experts is not None
                loaded = [part.experts.load(expert, name) for name in EXPERT_LINEARS]
                pairs += zip(part.kind.expert_groups(config, layer, expert), loaded, strict=True)
            for group, linear in pairs:
                rows = linear.dense().split(list(group.member_rows))
                found |= dict(zip(group.members, rows, strict=True))
    return found


def row(model: Path, python: str, work: Path) -> str:
    checkpoint, out = open_checkpoint(model), work / model.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plan = make_plan(load_recipe(None, {"rules": RULES}), checkpoint.config)
    quantize(checkpoint, plan, None, out)
    checkpoint.tokenizer.save(out)
    theirs_path = work / f"{model.name}.safetensors"
    script = Path(__file__).with_name("experts_elsewhere.py")
    subprocess.run([python, script, out, theirs_path], check=True, cwd=work)
    ours, theirs = modules(open_checkpoint(out)), load_file(theirs_path)
    shared = ours.keys() & theirs.keys()
    worst = max(float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max()) for name in shared)
    return f"| {checkpoint.config.architecture} | {len(ours)} | {len(shared)} | {worst:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--gptqmodel-python", required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    with torch.inference_mode():
        rows = [row(model, args.gptqmodel_python, args.work) for model in args.model]
    lines = [
        "# Routed experts in GPTQModel",
        "",
        f"`python -m benchmarks.interop_gptq.experts`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. GPTQModel "
        "7.7.0, Defuser 0.0.28, torch 2.14.1. Tiny random models.",
        "",
        "| layout | linear layers | read by GPTQModel | largest difference, of the largest weight |",
        "|---|---|---|---|",
        *rows,
        "",
        "GPTQModel dequantizes to bfloat16, whose rounding is 0.004. Its forward pass of these models ends in an error "
        "of its own (`'tuple' object has no attribute 'sigmoid'`): Defuser's router does not fit transformers 5.23 or "
        "5.24. So weights are compared, not logits.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
