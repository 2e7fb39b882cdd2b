"""Does one bundle directory give the same greedy tokens in glmquant, raw ONNX Runtime, onnxruntime-genai and Optimum?

    python -m benchmarks.interop.run --model demo=glmquant/assets/demo-model --model glm3=DIR:chatglm3 \
        --genai-python ENV/bin/python --optimum-python ENV/bin/python --work DIR

The two other environments come from the requirements files beside this script. Tokens are compared up to the first end
token, which runtimes treat differently.
"""

import argparse
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime as ort

from benchmarks.common.machine import describe_machine
from benchmarks.common.rounded_source import RoundedSource
from benchmarks.interop import raw_ort
from benchmarks.interop.batch import greedy_batch
from glmquant.core.spec import QuantSpec
from glmquant.data.calibration import sample_calibration
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.generate import generate
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

TEXTS = (
    "The system administrator should read this chapter before installing the package, because",
    "安装程序会",
    "A file is a sequence of bytes. Every file has",
    "我认为这本书",
)
LONG = (
    "In 2026 the 3 volumes cost 1,299.50 in total (12 % more than before), and   spaces\n\n\tor tabs stay as they are: "
    "an-unusually-long-word-without-any-break-"
    + "abcdefghijklmnopqrstuvwxyz" * 6
    + ". 第1章讲安装程序，第22章讲网络配置。"
)
CHATS = (
    [Message("user", "你好,what is a file?")],
    [Message("user", "Name a color."), Message("assistant", "Red."), Message("user", "另一个呢？\nOne more, please.")],
    [Message("user", LONG)],
)
VARIANTS = {
    "fp32 ort": ExportOptions(max_length=1024),
    "fp32 standard": ExportOptions(profile="standard", max_length=1024),
    "int4 ort": ExportOptions(max_length=1024, embedding=QuantSpec(8, 32)),
    "int4 standard": ExportOptions(profile="standard", max_length=1024, embedding=QuantSpec(8, 32), accuracy_level=0),
    "int4 standard, level 4": ExportOptions(profile="standard", max_length=1024, embedding=QuantSpec(8, 32)),
    "fp16 ort": ExportOptions(dtype="float16", max_length=1024),
    "fp32 ort, int8 cache": ExportOptions(max_length=1024, kv_cache="int8"),
    "fp32 ort, int4 cache": ExportOptions(max_length=1024, kv_cache="int4"),
}
SPEC = QuantSpec(4, 32)
CALIBRATION = Path("glmquant/assets/calibration.txt")
NOTES = (
    "- `chatglm2-tiny` and `chatglm3-tiny` are `tests/golden`; `chatglm3-like` is `chatglm3-tiny` with the "
    "`tokenizer.model` of `chatglm2-tiny`; `glm4-tiny` is what `benchmarks/interop/tiny_glm4.py` writes; `135m` is "
    "SmolLM2-135M-Instruct as a GLM checkpoint.",
    "- Chat ids differ where a SentencePiece tokenizer normalizes (`chatglm3-tiny` here: NFKC, white space folded): "
    "onnxruntime-genai 0.18 reads no normalizer from `tokenizer.json`. The tokenizers of ChatGLM2, `chatglm3-like` and "
    "`demo` normalize nothing, and GLM-4's is byte-level.",
    "- INT4 in the `standard` profile has `accuracy_level: 0`, which `genai_config.json` carries to the session. At "
    "level 4 ONNX Runtime fuses the products to INT8 arithmetic, where a difference of 1e-7 from padding turns some "
    "activations to the next code, so that a batch may answer otherwise than its rows one by one.",
    "- Optimum 0.1 computes the width of an empty cache itself and so cannot start an INT4 one.",
)
FAILED: dict[str, list] = {"single": [], "batch": [], "chat": []}


@dataclass(frozen=True)
class Row:
    model: str
    variant: str
    runtime: str
    single: str
    batch: str
    chat: str


def until_end(tokens: list[int], ends: set[int], length: int) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), length)
    return list(tokens[: min(stop, length)])


def compare(got: list[list[int]], expected: list[list[int]], ends: set[int], length: int) -> str:
    """How many of the prompts give the same tokens, and how far the others agree."""
    if not got:
        return "does not run"
    got = [until_end(tokens, ends, length) for tokens in got]
    same = sum(a == b for a, b in zip(got, expected, strict=True))
    if same == len(expected):
        return f"{same}/{len(expected)}"
    agree = [
        next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        for a, b in zip(got, expected, strict=True)
        if a != b
    ]
    return f"{same}/{len(expected)} (others agree for {', '.join(map(str, agree))} tokens)"


def export(checkpoint: Checkpoint, tokenizer: GlmTokenizer, variant: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    source = RoundedSource(checkpoint, SPEC, SPEC) if variant.startswith("int4") else checkpoint
    ranges = None
    if VARIANTS[variant].kv_cache != "float":
        samples = sample_calibration([CALIBRATION], [], tokenizer, num_samples=4, seq_len=256)
        ranges = key_value_ranges(checkpoint, samples)
    export_bundle(source, VARIANTS[variant], out, key_values=ranges, tokenizer=tokenizer)


def chat_ids(tokenizer: GlmTokenizer) -> tuple[list[list[dict[str, str]]], list[list[int]]]:
    try:
        ids = [tokenizer.apply_chat_template(messages) for messages in CHATS]
    except CheckpointError:
        return [], []
    return [[{"role": m.role, "content": m.content} for m in messages] for messages in CHATS], ids


def run_elsewhere(python: str, script: str, bundle: Path, case: Path) -> dict:
    out = bundle / f"{script}.json"
    command = [python, Path(__file__).with_name(script), bundle, case, out]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{script} failed:\n{done.stderr}", flush=True)
        return FAILED
    return json.loads(out.read_text())


def check_variant(
    name: str, variant: str, checkpoint: Checkpoint, tokenizer: GlmTokenizer, args: argparse.Namespace
) -> list[Row]:
    bundle = args.work / name / variant.replace(",", "").replace(" ", "-")
    export(checkpoint, tokenizer, variant, bundle)
    prompts = [[*tokenizer.prefix_ids, *tokenizer.encode(text)] for text in TEXTS]
    chats, wanted_chats = chat_ids(tokenizer)
    case = bundle / "case.json"
    fields = {"prompts": prompts, "chats": chats, "new_tokens": args.new_tokens, "pad_id": tokenizer.pad_id}
    case.write_text(json.dumps(fields))

    model = OnnxModel.open(bundle)
    options = GenerationOptions(max_new_tokens=args.new_tokens)
    expected = [list(generate(model, prompt, options)) for prompt in prompts]
    ends = set(model.info.eos_ids)

    def row(runtime: str, single: list, batch: list, chat: str = "") -> Row:
        judged = (compare(tokens, expected, ends, args.new_tokens) for tokens in (single, batch))
        return Row(name, variant, runtime, *judged, chat)

    ours = greedy_batch(model, prompts, args.new_tokens)
    lengths = "/".join(str(len(tokens)) for tokens in expected)
    rows = [row("glmquant", expected, ours, f"(answers of {lengths} tokens)")]
    alone = [raw_ort.greedy(bundle, [prompt], args.new_tokens)[0] for prompt in prompts]
    rows.append(row("ONNX Runtime", alone, raw_ort.greedy(bundle, prompts, args.new_tokens)))
    genai = run_elsewhere(args.genai_python, "run_genai.py", bundle, case)
    same_chats = sum(a == b for a, b in zip(genai["chat"], wanted_chats, strict=False))
    chat = f"{same_chats}/{len(wanted_chats)}" if wanted_chats else "no template"
    rows.append(row("onnxruntime-genai", genai["single"], genai["batch"], chat))
    optimum = run_elsewhere(args.optimum_python, "run_optimum.py", bundle, case)
    rows.append(row("Optimum", optimum["single"], optimum["batch"]))
    return rows


def write_results(rows: list[Row], args: argparse.Namespace) -> None:
    lines = [
        "# One directory, four runtimes",
        "",
        f"`python -m benchmarks.interop.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}.",
        f"onnxruntime {ort.__version__}, onnxruntime-genai 0.18.0, optimum-onnx 0.1.0 with transformers 4.57.",
        "",
        f"Greedy tokens of {len(TEXTS)} prompts, up to {args.new_tokens} new ones each, against glmquant's answers to "
        "one prompt at a time. *batch*: all prompts at once, padded on the left (glmquant, ONNX Runtime, Optimum) or "
        f"right (onnxruntime-genai). *chat*: ids of {len(CHATS)} templated conversations against glmquant's; one is "
        "long, with digits, white space and both languages. INT4 is round-to-nearest, symmetric, groups of "
        f"{SPEC.group_size}, accuracy level 4 in profile ort, embedding of 8 bits.",
        "",
        "| model | bundle | runtime | one by one | batch | chat ids |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {r.model} | {r.variant} | {r.runtime} | {r.single} | {r.batch} | {r.chat} |" for r in rows]
    args.out.write_text("\n".join([*lines, "", *NOTES]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="NAME=DIR or NAME=DIR:FAMILY")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--genai-python", required=True)
    parser.add_argument("--optimum-python", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    rows: list[Row] = []
    for entry in args.model:
        name, _, place = entry.partition("=")
        directory, _, family = place.partition(":")
        checkpoint = open_checkpoint(directory, family=family or None)
        tokenizer = load_tokenizer(Path(directory), checkpoint.config)
        for variant in args.variant or VARIANTS:
            for row in check_variant(name, variant, checkpoint, tokenizer, args):
                print(row, flush=True)
                rows.append(row)
    write_results(rows, args)


if __name__ == "__main__":
    main()
