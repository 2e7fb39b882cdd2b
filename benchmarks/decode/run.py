"""Decode and prefill speed of an INT4 bundle beside llama.cpp's Q4_0, in one run, alternating.

    python -m benchmarks.common.make_chatglm2 --layers 4 --out SLICE --tokenizer-of tests/golden/chatglm2-tiny
    python -m benchmarks.common.llama_twin SLICE twin-f16.gguf
    LLAMA-ENV/bin/python benchmarks/decode/llama_worker.py --quantize twin-f16.gguf twin.gguf
    python -m benchmarks.decode.run --model SLICE --twin twin.gguf --llama "LLAMA-ENV/bin/python" --work DIR

The bundle: linears and head INT4, symmetric, groups of 128, accuracy level 4; embedding INT8. Both sides stay loaded in
processes of their own and answer in turn. *Load and first token* starts fresh processes, also in turn, with the files
in the page cache; the clock starts after the imports.

``--env GLIBC_TUNABLES=glibc.malloc.hugetlb=1`` puts the packed weights of both sides on huge pages.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.common.machine import describe_machine
from benchmarks.common.rounded_source import RoundedSource
from glmquant.core.spec import QuantSpec
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.store.checkpoint import open_checkpoint

HERE = Path(__file__).parent
SPEC = QuantSpec(4, 128)
OPTIONS = ExportOptions(embedding=QuantSpec(8, 128), max_length=2048)
FULL_LAYERS = 28


class Worker:
    """A loaded model in a process of its own."""

    def __init__(self, command: Sequence[object], settings: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.loaded = self._answer()

    def run(self, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended: {self._process.args}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Speed:
    """Medians: tokens per second, seconds, bytes."""

    prefill: float
    decode: float
    first_token: float
    peak: float


def measure(commands: dict[str, Sequence[object]], args: argparse.Namespace) -> dict[str, Speed]:
    prompt = np.random.default_rng(0).integers(3, 60000, args.prompt_tokens).tolist()
    settings = dict(setting.split("=", 1) for setting in args.env)
    workers = {name: Worker(command, settings) for name, command in commands.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for repetition in range(args.repetitions + 1):
        for name, worker in workers.items():
            answer = worker.run(prompt, args.new_tokens)
            if repetition:  # the first one warms up
                runs[name].append(answer)
    for worker in workers.values():
        worker.close()
    first: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.repetitions):
        for name, command in commands.items():
            worker = Worker(command, settings)
            first[name].append(worker.loaded["load"] + worker.run(prompt[:16], 1)["prefill"])
            worker.close()
    return {
        name: Speed(
            prefill=median(args.prompt_tokens / run["prefill"] for run in seen),
            decode=median((args.new_tokens - 1) / run["decode"] for run in seen),
            first_token=median(first[name]),
            peak=max(run["peak"] for run in seen),
        )
        for name, seen in runs.items()
    }


def bandwidth(threads: int) -> float:
    """Bytes per second; measured in a process of its own."""
    script = Path(__file__).with_name("read_bandwidth.py")
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, str(threads)], check=True, capture_output=True, env=environment)
    return float(done.stdout.split()[0]) * 1e9


def bytes_per_token(bundle: Path) -> int:
    """Of weights that a decode step reads: everything but the embedding, of which it reads a row."""
    return sum(
        int(entry.value)
        for tensor in onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "length" and not tensor.name.startswith(("embed_tokens", "cos_cache", "sin_cache"))
    )


def full_size(bundle: Path, layers: int) -> int:
    """Bytes of a bundle of ``FULL_LAYERS`` layers, from one of fewer."""
    tensors = onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer
    lengths = {t.name: int(e.value) for t in tensors for e in t.external_data if e.key == "length"}
    in_layers = sum(length for name, length in lengths.items() if name.startswith("layers."))
    total = sum(lengths.values())
    return total - in_layers + in_layers // layers * FULL_LAYERS


def disk_size(bundle: Path) -> int:
    return sum((bundle / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


def report(args: argparse.Namespace, ours: Speed, peer: Speed, reads: float, bundle: Path) -> str:
    per_second = bytes_per_token(bundle) * ours.decode
    size = disk_size(bundle)
    layers = open_checkpoint(args.model).config.num_hidden_layers
    rows = (
        (
            "decode, tokens/s",
            f"{ours.decode:.1f}",
            f"{peer.decode:.1f}",
            f"{ours.decode / peer.decode:.2f} ×",
            "≥ 1.4 ×",
        ),
        (
            f"prefill of {args.prompt_tokens} tokens, tokens/s",
            f"{ours.prefill:.0f}",
            f"{peer.prefill:.0f}",
            f"{ours.prefill / peer.prefill:.2f} ×",
            "≥ 1.3 ×",
        ),
        (
            "load and first token, s",
            f"{ours.first_token:.2f}",
            f"{peer.first_token:.2f}",
            f"{ours.first_token / peer.first_token:.2f} ×",
            "≤ 1.0 ×",
        ),
        (
            "weights read while decoding, GB/s",
            f"{per_second / 1e9:.1f}",
            "",
            f"{per_second / reads:.0%} of {reads / 1e9:.1f}",
            "≥ 85 %",
        ),
        (
            "peak memory, MB",
            f"{ours.peak / 1e6:.0f}",
            f"{peer.peak / 1e6:.0f}",
            f"{ours.peak / size:.2f} × the files",
            "≤ 1.25 ×",
        ),
        (
            "file size, MB",
            f"{size / 1e6:.0f}",
            f"{args.twin.stat().st_size / 1e6:.0f}",
            f"{full_size(bundle, layers) / 1e9:.2f} GB at {FULL_LAYERS} layers",
            "≤ 3.5 GB",
        ),
    )
    lines = [
        "# Decode and prefill beside llama.cpp",
        "",
        f"`python -m benchmarks.decode.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; onnxruntime "
        f"{ort.__version__}, llama-cpp-python 0.3.36 built here.",
        "",
        f"ChatGLM2-6B shape, {layers} layers, random weights; {args.prompt_tokens} prompt tokens, {args.new_tokens} "
        f"new ones, {args.threads} threads, medians of {args.repetitions} alternating runs. "
        + " ".join([*args.env, args.note]).strip(),
        "",
        "| | glmquant INT4 | llama.cpp Q4_0 | ratio | target |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser, result: Path) -> None:
    """Those of every comparison with llama.cpp; ``result`` is where its report is kept."""
    parser.add_argument("--llama", type=shlex.split, required=True, help="command that starts its Python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=result)
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE for both sides")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the report")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--twin", type=Path, required=True)
    add_options(parser, HERE / "result.md")
    args = parser.parse_args()
    if not args.work.exists():
        args.work.mkdir(parents=True)
        export_bundle(RoundedSource(open_checkpoint(args.model), SPEC, SPEC), OPTIONS, args.work)
    commands: dict[str, Sequence[object]] = {
        "glmquant": (sys.executable, HERE / "ort_worker.py", args.work, args.threads),
        "llama.cpp": (*args.llama, HERE / "llama_worker.py", args.twin, args.threads),
    }
    reads = bandwidth(args.threads)
    speeds = measure(commands, args)
    reads = max(reads, bandwidth(args.threads))
    text = report(args, speeds["glmquant"], speeds["llama.cpp"], reads, args.work)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
