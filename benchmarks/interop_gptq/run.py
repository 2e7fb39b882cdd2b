"""Do other programs read our GPTQ checkpoints, and do we read theirs? Logits decide.

    python -m benchmarks.interop_gptq.run --model glmquant/assets/demo-model --work DIR \
        --gptqmodel-python ENV/bin/python --autoround-python ENV/bin/python

The two environments come from the requirements files beside this script. Everything runs on the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file
from torch import Tensor

import glmquant as gq
from benchmarks.common.machine import describe_machine
from benchmarks.interop_gptq.compare import Distance, distance, logits_of
from glmquant.recipe.schema import ExportOptions, Recipe
from glmquant.runtime.model import OnnxModel
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import open_checkpoint

TOLERANCE = 0.02  # of the logits' RMS; bfloat16 keeps 8 bits of every intermediate value
SAMPLES, LENGTH = 16, 256
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Theirs:
    """A checkpoint that another program writes, and what reads it back there."""

    name: str
    writer: str
    options: dict[str, object]
    loader: str


@dataclass(frozen=True)
class Ours:
    """A checkpoint that a recipe of ours makes, and what is to read it elsewhere."""

    name: str
    loader: str
    layout: str = "split"
    recipe: str = "int4-g128-gptq"
    keeps_head: bool = True


OURS = (
    Ours("fused, INT4 g128", "transformers", layout="fused"),
    Ours("split, INT4 g128", "gptqmodel"),
    Ours("split, INT4 g128, head INT8 asymmetric (v2)", "gptqmodel", keeps_head=False),
    Ours("split, bits and groups allocated", "gptqmodel", recipe="int4-auto-4.25"),
)
THEIRS = (
    Theirs("GPTQModel INT4 g128", "gptqmodel", {"bits": 4, "group_size": 128, "desc_act": False}, "gptqmodel"),
    Theirs(
        "GPTQModel INT4 g32, desc_act",
        "gptqmodel",
        {"bits": 4, "group_size": 32, "desc_act": True, "act_group_aware": False},
        "gptqmodel",
    ),
    Theirs(
        "AutoRound INT4 g128, auto_gptq",
        "autoround",
        {"format": "auto_gptq", "iters": 8, "group_size": 128},
        "transformers",
    ),
    Theirs(
        "AutoRound INT4 g128, auto_round",
        "autoround",
        {"format": "auto_round", "iters": 8, "group_size": 128},
        "autoround",
    ),
)


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.work: Path = args.work
        self.model: Path = args.model
        self.pythons = {
            "transformers": args.gptqmodel_python,
            "gptqmodel": args.gptqmodel_python,
            "autoround": args.autoround_python,
        }
        self.rows: list[str] = []
        self.failed = 0

    def prepare(self) -> None:
        """The float checkpoint in canonical names, calibration samples and the tokens to compare on."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not (self.work / "float").exists():
            gq.quantize(self.model, Recipe(version=1), out=self.work / "float")
        if not (self.work / "calibration").exists():
            gq.calibrate(self.model, self._recipe(OURS[0]), out=self.work / "calibration")
        tokens_SL = read_calibration(self.work / "calibration").samples.tokens_SL
        (self.work / "calibration.json").write_text(json.dumps(tokens_SL.tolist()))
        self.tokens_BT = tokens_SL[-4:, :64]
        (self.work / "tokens.json").write_text(json.dumps(self.tokens_BT.tolist()))
        self.float_BTV = logits_of(open_checkpoint(self.work / "float"), self.tokens_BT)

    def ours(self, case: Ours) -> None:
        out = self._place("ours", case.name)
        if not out.exists():
            gq.quantize(self.model, self._recipe(case), self.work / "calibration", out=out)
        expected = logits_of(open_checkpoint(out), self.tokens_BT)
        got = self._elsewhere(case.loader, out)
        self._row(f"ours: {case.name}", f"{case.loader} reads", distance(got, expected), expected)

    def theirs(self, case: Theirs) -> None:
        out = self._place("theirs", case.name)
        if not out.exists():
            options = json.dumps({"bits": 4, "sym": True} | case.options)
            inputs = [self.work / "float", self.work / "calibration.json", options, out]
            self._run(case.writer, f"write_{case.writer}.py", *inputs)
        checkpoint = open_checkpoint(out)
        expected = self._elsewhere(case.loader, out)
        self._row(case.name, "our reader", distance(logits_of(checkpoint, self.tokens_BT), expected), expected)
        for label, options in {
            "our ONNX, ort": ExportOptions(accuracy_level=1),
            "our ONNX, standard": ExportOptions(profile="standard", accuracy_level=0),
        }.items():
            bundle = self._place("onnx", f"{case.name} {options.profile}")
            if not bundle.exists():
                gq.export(checkpoint, Recipe(version=1, export=options), out=bundle)
            got = OnnxModel.open(bundle).forward(self.tokens_BT.numpy(), np.ones(tuple(self.tokens_BT.shape), np.int64))
            self._row(case.name, label, distance(torch.from_numpy(got), expected), expected)

    def _recipe(self, case: Ours) -> Recipe:
        samples = {"calibration.num_samples": SAMPLES, "calibration.seq_len": LENGTH}
        recipe = gq.load_recipe(case.recipe, samples | {"store.layout": case.layout})
        rules = tuple(rule for rule in recipe.rules if rule.match != "lm_head" or not case.keeps_head)
        return recipe.model_copy(update={"rules": rules})

    def _place(self, kind: str, name: str) -> Path:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        return self.work / f"{kind}-{plain}"

    def _elsewhere(self, loader: str, checkpoint: Path) -> Tensor:
        out = checkpoint.with_name(f"{checkpoint.name}.{loader}.safetensors")
        if not out.exists():
            self._run(loader, "logits_elsewhere.py", loader, checkpoint, self.work / "tokens.json", out)
        return load_file(out)["logits"]

    def _run(self, program: str, script: str, *arguments: object) -> None:
        command = [self.pythons[program], str(HERE / script), *map(str, arguments)]
        log = self.work / f"{program}.log"
        with log.open("ab") as file:
            environment = os.environ | {"GPTQMODEL_CPU_WORKERS": "2", "TOKENIZERS_PARALLELISM": "false"}
            subprocess.run(command, check=True, env=environment, stdout=file, stderr=file, cwd=self.work)

    def _row(self, checkpoint: str, reader: str, found: Distance, expected: Tensor) -> None:
        passed = found.error <= TOLERANCE
        self.failed += not passed
        lost = distance(self.float_BTV, expected).error
        row = f"| {checkpoint} | {reader} | {found} | {100 * lost:.2f} % | {'yes' if passed else '**no**'} |"
        print(row, flush=True)
        self.rows.append(row)


def versions(python: str) -> str:
    code = (
        "from importlib.metadata import version as v, PackageNotFoundError as E\n"
        "for n in ('gptqmodel','auto-round','optimum','transformers','torch'):\n"
        "    try: print(n, v(n))\n"
        "    except E: pass"
    )
    return ", ".join(
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    )


def write_results(bench: Bench, args: argparse.Namespace) -> None:
    lines = [
        "# GPTQ checkpoints between programs",
        "",
        f"`python -m benchmarks.interop_gptq.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}.",
        f"glmquant with torch {torch.__version__}, onnxruntime {ort.__version__}; one environment: "
        f"{versions(args.gptqmodel_python)}; another: {versions(args.autoround_python)}.",
        "",
        f"The demonstration model (hidden 256, MLP 768), calibrated on {SAMPLES} x {LENGTH} tokens; logits of 4 x 64 "
        "tokens. *error*: RMS of the difference over the RMS of the expected logits; *quantized*: the same between the "
        "float checkpoint and this one, to tell a difference in kernels from one in weights. GPTQModel and "
        f"transformers compute in bfloat16 with the kernel `gptq_torch`. At most {100 * TOLERANCE:g} % passes.",
        "",
        "Checkpoints called *ours* are read elsewhere and held to our logits; the others are written elsewhere, and "
        "our reader and our ONNX bundles are held to the logits of their own software.",
        "",
        "transformers reads GPTQ through optimum, so its rows are optimum's, too. It knows one spec, for all linears "
        "of the blocks, and no quantized `lm_head`, which it replaces by random weights: such an artifact is for "
        "GPTQModel, and `inspect` says so.",
        "",
        "| checkpoint | read by | error | mean KL (nats) | same top 1 | quantized | passes |",
        "|---|---|---|---|---|---|---|",
        *bench.rows,
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gptqmodel-python", required=True)
    parser.add_argument("--autoround-python", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    args.work = args.work.resolve()
    bench = Bench(args)
    bench.prepare()
    for checkpoint in OURS:
        bench.ours(checkpoint)
    for case in THEIRS:
        bench.theirs(case)
    write_results(bench, args)
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
