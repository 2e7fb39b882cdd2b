"""Decode and prefill of models with routed experts beside llama.cpp's Q4_0, in one run, alternating.

    python -m benchmarks.sparse_decode.run --llama LLAMA-ENV/bin/python --work DIR

LLAMA-ENV is an environment of ../decode/requirements-llama.txt. What is measured is made where ``--work`` does not
hold it yet: slices of GLM-4.7-Flash and GLM-4.5-Air of two depths (random weights, the published shapes),
``moe-int4-g128`` bundles of them with the recipe's INT8 cache and with a float one, and llama.cpp's Q4_0 of the same
weights in its own architectures.

llama.cpp's files are read back before anything is timed: every tensor has the checkpoint's shape, and as many experts
meet a token. A head of 150,000 rows weighs much in a slice, so time is also told by layer, as the difference of the
two depths, and for the whole model. A family that ``--work``/rows.json holds is not measured again.

On a busy machine ``--threads 1 --env CLOCK=processor`` counts processor time instead of the wall's.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from benchmarks.common.child import glmquant, run
from benchmarks.common.machine import describe_machine
from benchmarks.common.sparse_twin import require_same_work
from benchmarks.decode import run as decode
from benchmarks.decode.run import Speed, add_options, disk_size
from glmquant.assets import CALIBRATION_TEXT
from glmquant.glm.config import ExpertsConfig
from glmquant.store.checkpoint import open_checkpoint

RECIPE = "moe-int4-g128"
FLOAT, INT8, PEER = "onnx-float", "onnx-int8", "llama.cpp"
OURS = (FLOAT, INT8)
TITLES = {FLOAT: "glmquant, float cache", INT8: "glmquant, INT8 cache", PEER: "llama.cpp Q4_0"}
WORKERS = Path(decode.__file__).parent
DECODE_TARGET, PREFILL_TARGET, MEMORY_TARGET = 1.2, 1.0, 1.1


@dataclass(frozen=True)
class Family:
    """Two depths of a model; what one has more than the other are sparse layers alone."""

    title: str
    shape: str
    deep: int
    short: int
    published_layers: int
    options: tuple[str, ...] = ()

    def directory(self, work: Path, layers: int) -> Path:
        return work / f"{self.shape}-{layers}"


FAMILIES = {
    "flash": Family("GLM-4.7-Flash", "flash", 5, 2, 47),
    "air": Family("GLM-4.5-Air", "air", 2, 1, 46, ("--sparse",)),
}


@dataclass(frozen=True)
class Row:
    """What was measured of a family: by depth and side, and the bytes that a step reads and that lie on disk.

    ``bandwidth`` is None where processor time was counted, which has none.
    """

    speeds: dict[str, dict[str, Speed]]
    read: dict[str, int]
    size: dict[str, int]
    types: dict[str, int]
    bandwidth: float | None
    threads: int
    prompt_tokens: int
    new_tokens: int
    repetitions: int
    day: str
    note: str


def prepare(family: Family, layers: int, llama: Sequence[str], work: Path) -> Path:
    """The slice, its bundles and its twin; each appears under its name when it is whole."""
    at = family.directory(work, layers)
    at.mkdir(parents=True, exist_ok=True)
    model, ranges, twin = at / "float", at / "ranges", at / "q4_0.gguf"
    if not model.exists():
        command = [sys.executable, "-m", "benchmarks.common.make_sparse", family.shape, "--layers", layers]
        unfinished = at / "float.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        run([*command, *family.options, "--out", unfinished])
        unfinished.rename(model)
    if not twin.exists():
        half, unfinished = at / "f16.gguf", at / "q4_0.unfinished"
        run([sys.executable, "-m", "benchmarks.common.sparse_twin", model, half])
        run([*llama, WORKERS / "llama_worker.py", "--quantize", half, unfinished])
        half.unlink()
        unfinished.rename(twin)
    if not (at / FLOAT).exists():
        glmquant("export", model, "--recipe", RECIPE, "--set", "export.kv_cache=float", "--out", at / FLOAT)
    if not (at / INT8).exists():
        if not ranges.exists():
            # A few windows will do: ranges of random weights bear on no speed.
            samples = ["--set", "calibration.num_samples=2", "--set", "calibration.seq_len=128"]
            glmquant("calibrate", model, "--recipe", RECIPE, "--data", CALIBRATION_TEXT, *samples, "--out", ranges)
        glmquant("export", model, "--recipe", RECIPE, "--calibration", ranges, "--out", at / INT8)
    return at


def require_same_experts(bundle: Path, experts: ExpertsConfig) -> None:
    """Every sparse layer's operator holds and picks as many experts as the checkpoint says."""
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "QMoE":
            (chosen,) = (attribute.i for attribute in node.attribute if attribute.name == "k")
            if (chosen, dims[node.input[2]][0]) != (experts.per_token, experts.count):
                raise SystemExit(f"{bundle}: {chosen} of {dims[node.input[2]][0]} experts meet a token")


def read_by_bundle(bundle: Path, experts: ExpertsConfig) -> int:
    """Bytes of weights that a decode step reads: of routed experts the share that a token meets."""
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    total = decode.bytes_per_token(bundle)
    routed = sum(
        int(entry.value)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "length" and ".mlp.experts." in tensor.name
    )
    return total - routed + routed * experts.per_token // experts.count


def read_by_twin(reader: Any, experts: ExpertsConfig) -> int:
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors if tensor.name != "token_embd.weight"}
    routed = sum(size for name, size in sizes.items() if "_exps." in name)
    return sum(sizes.values()) - routed + routed * experts.per_token // experts.count


def measure(family: Family, args: argparse.Namespace) -> Row:
    places = {layers: prepare(family, layers, args.llama, args.work) for layers in (family.short, family.deep)}
    experts = open_checkpoint(places[family.deep] / "float").config.experts
    assert experts is not None
    readers = {
        layers: require_same_work(open_checkpoint(at / "float"), at / "q4_0.gguf") for layers, at in places.items()
    }
    deep, by_wall = places[family.deep], "CLOCK=processor" not in args.env
    before = decode.bandwidth(args.threads) if by_wall else None
    speeds = {}
    for layers, at in places.items():
        for side in OURS:
            require_same_experts(at / side, experts)
        commands: dict[str, Sequence[object]] = {
            side: (sys.executable, WORKERS / "ort_worker.py", at / side, args.threads) for side in OURS
        }
        commands[PEER] = (*args.llama, WORKERS / "llama_worker.py", at / "q4_0.gguf", args.threads, "flash")
        speeds[str(layers)] = decode.measure(commands, args)
    types: dict[str, int] = {}
    for tensor in readers[family.deep].tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
    return Row(
        speeds=speeds,
        read={
            FLOAT: read_by_bundle(deep / FLOAT, experts),
            INT8: read_by_bundle(deep / INT8, experts),
            PEER: read_by_twin(readers[family.deep], experts),
        },
        size={
            FLOAT: disk_size(deep / FLOAT),
            INT8: disk_size(deep / INT8),
            PEER: (deep / "q4_0.gguf").stat().st_size,
        },
        types=types,
        bandwidth=None if before is None else max(before, decode.bandwidth(args.threads)),
        threads=args.threads,
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.new_tokens,
        repetitions=args.repetitions,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        note=" ".join([*args.env, args.note]).strip(),
    )


def section(family: Family, row: Row) -> list[str]:
    deep = row.speeds[str(family.deep)]
    ours, peer = {side: deep[side] for side in OURS}, deep[PEER]

    def cells(name: str, values: Mapping[str, str], ratios: Sequence[str], target: str) -> str:
        shown = [values.get(side, "") for side in (FLOAT, INT8, PEER)]
        return f"| {' | '.join([name, *shown, *ratios, target])} |"

    def rates(name: str, attribute: str, form: str, target: str) -> str:
        values = {side: format(getattr(deep[side], attribute), form) for side in deep}
        ratios = [f"{getattr(each, attribute) / getattr(peer, attribute):.2f} ×" for each in ours.values()]
        return cells(name, values, ratios, target)

    per_second = {side: row.read[side] * deep[side].decode for side in deep}
    megabytes = {side: f"{each.peak / 1e6:.0f}" for side, each in deep.items()}
    megabytes[PEER] += f" ({peer.peak / row.size[PEER]:.2f} × its file)"
    types = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sorted(row.types.items()))
    return [
        f"## {family.title}, {family.deep} layers",
        "",
        f"{row.day}; {row.prompt_tokens} prompt tokens, {row.new_tokens} new ones, threads: {row.threads}, medians of "
        f"{row.repetitions} alternating runs. {row.note}".strip(),
        f"llama.cpp's file, read back: {types}; its tensors have the checkpoint's shapes, and a token meets as many "
        "experts in both.",
        "",
        f"| | {' | '.join(TITLES.values())} | ratio, float | ratio, INT8 | target |",
        "|---|---|---|---|---|---|---|",
        rates("decode, tokens/s", "decode", ".1f", f"≥ {DECODE_TARGET} ×"),
        rates(f"prefill of {row.prompt_tokens} tokens, tokens/s", "prefill", ".0f", f"≥ {PREFILL_TARGET} ×"),
        rates("load and first token, s", "first_token", ".2f", ""),
        cells(
            "peak memory, MB",
            megabytes,
            [f"{each.peak / row.size[side]:.2f} × the files" for side, each in ours.items()],
            f"≤ {MEMORY_TARGET} ×",
        ),
        cells(
            "file size, MB",
            {side: f"{size / 1e6:.0f}" for side, size in row.size.items()},
            [f"{row.size[side] / row.size[PEER]:.2f} ×" for side in ours],
            "",
        ),
        cells("weights that a token reads, MB", {s: f"{n / 1e6:.0f}" for s, n in row.read.items()}, ["", ""], ""),
        *([] if row.bandwidth is None else [cells(*_share_of_bandwidth(row.bandwidth, per_second), ["", ""], "")]),
        "",
        *by_layer(family, row),
    ]


def _share_of_bandwidth(bandwidth: float, per_second: Mapping[str, float]) -> tuple[str, dict[str, str]]:
    return f"of {bandwidth / 1e9:.1f} GB/s", {side: f"{rate / bandwidth:.0%}" for side, rate in per_second.items()}


def by_layer(family: Family, row: Row) -> list[str]:
    """A sparse layer by the difference of two depths, and the whole model by as many of them."""
    deep, short = row.speeds[str(family.deep)], row.speeds[str(family.short)]
    lines = [
        f"| {family.deep} layers less {family.short} | {' | '.join(TITLES.values())} | ratio, float | ratio, INT8 |",
        "|---|---|---|---|---|---|",
    ]
    for name, attribute, tokens in (("decode", "decode", 1), ("prefill", "prefill", row.prompt_tokens)):
        seconds = {side: [tokens / getattr(speeds[side], attribute) for speeds in (short, deep)] for side in TITLES}
        layer = {side: (both[1] - both[0]) / (family.deep - family.short) for side, both in seconds.items()}
        whole = {side: seconds[side][1] + layer[side] * (family.published_layers - family.deep) for side in layer}
        lines += [
            _line(f"{name}, ms a sparse layer", [f"{each * 1e3:.2f}" for each in layer.values()], layer),
            _line(
                f"{name}, {family.published_layers} layers foretold, tokens/s",
                [f"{tokens / each:.1f}" for each in whole.values()],
                whole,
            ),
        ]
    return lines


def _line(name: str, shown: Sequence[str], seconds: Mapping[str, float]) -> str:
    ratios = [f"{seconds[PEER] / seconds[side]:.2f} ×" for side in OURS]
    return f"| {' | '.join([name, *shown, *ratios])} |"


def report(rows: Mapping[str, Row]) -> str:
    lines = [
        "# Models with routed experts: decode and prefill beside llama.cpp",
        "",
        f"`python -m benchmarks.sparse_decode.run`, {max(row.day for row in rows.values())}, {describe_machine()}; "
        f"onnxruntime {ort.__version__}, llama-cpp-python 0.3.36 built here. Recipe `{RECIPE}`; published shapes, "
        "random weights. What bounds it: [notes.md](notes.md).",
    ]
    for name, row in rows.items():
        lines += ["", *section(FAMILIES[name], row)]
    return "\n".join(lines) + "\n"


def load(path: Path) -> dict[str, Row]:
    if not path.exists():
        return {}
    return {name: _row(values) for name, values in json.loads(path.read_text()).items()}


def _row(values: dict[str, Any]) -> Row:
    speeds = {
        layers: {side: Speed(**speed) for side, speed in sides.items()} for layers, sides in values["speeds"].items()
    }
    return Row(**{**values, "speeds": speeds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, nargs="+", default=list(FAMILIES))
    add_options(parser, Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    stored = args.work / "rows.json"
    rows = load(stored)
    for name in args.family:
        if name not in rows:
            rows[name] = measure(FAMILIES[name], args)
            stored.write_text(json.dumps({each: asdict(row) for each, row in rows.items()}, indent=1))
    text = report(rows)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
