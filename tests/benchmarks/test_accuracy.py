"""The parts of ``benchmarks.accuracy``: what is read back, what is kept, and what is compared with what."""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import onnxruntime as ort
import pytest
import torch

from benchmarks.accuracy import inputs as inputs_module
from benchmarks.accuracy import maker, measure, rows, run, three_bits, write_onnxruntime, write_ours
from benchmarks.accuracy.inputs import Case, Inputs, mean_square_inputs, prepare
from benchmarks.accuracy.made import Cost, ProgramError, kept, make
from benchmarks.accuracy.measure import Meter, kl_difference, read_metrics, write_metrics
from benchmarks.accuracy.read_back import Candidate, read_gguf, read_onnx, read_ours
from benchmarks.accuracy.rows import Row, blocks, ours
from benchmarks.accuracy.table import Failure, Result, accuracy_table, best_of_ours
from glmquant import assets
from tests.support.paths import CHATGLM2

TEXT = Path(assets.resolve("glmquant:calibration.txt"))
COST = Cost(1.0, 2.0, 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Inputs:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs_module, "SAMPLES", 2)
        patch.setattr(inputs_module, "LENGTH", 32)
        return prepare(Case("tiny", "Tiny", CHATGLM2, (TEXT,), (TEXT,), ()), tmp_path_factory.mktemp("accuracy"))


@pytest.fixture
def few_windows(monkeypatch) -> None:
    monkeypatch.setattr(measure, "WINDOWS", 3)
    monkeypatch.setattr(measure, "LENGTH", 32)


def run_script(module, monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    module.main()


def quantized(prepared: Inputs, monkeypatch, row: Row, out: Path) -> Candidate:
    files = prepared.path("float"), prepared.path("calibration")
    run_script(write_ours, monkeypatch, *files, json.dumps(dict(row.options)), out)
    return read_ours(prepared.checkpoint, out)


def weights(source, layer: int = 0) -> list[torch.Tensor]:
    return [linear.dense() for linear in source.block(layer).linears().values()]


def test_inputs_are_the_same_tokens_for_all(prepared: Inputs) -> None:
    tokens = json.loads(prepared.path("calibration.json").read_text())
    assert np.shape(tokens) == (2, 32)
    importance = np.load(prepared.path("importance.npz"))
    tensors = {tensor.name: tensor.shape for tensor in gguf.GGUFReader(prepared.path("twin-f16.gguf")).tensors}
    assert all(len(values) == tensors[name][0] for name, values in importance.items())
    assert len(importance) == 7 * prepared.checkpoint.config.num_hidden_layers


def test_importance_is_the_mean_square_of_every_input_column() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(8, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    tokens_SL = torch.randint(0, 8, (5, 4))
    found = mean_square_inputs(model, tokens_SL)
    embedded = model[0](tokens_SL)
    torch.testing.assert_close(found["1"], embedded.square().mean((0, 1)))
    torch.testing.assert_close(found["2"], model[1](embedded).square().mean((0, 1)))


def test_ours_keeps_the_head_and_counts_scales(prepared: Inputs, tmp_path, monkeypatch) -> None:
    candidate = quantized(prepared, monkeypatch, ours("RTN", "int4-g128-rtn"), tmp_path / "out")
    config = prepared.checkpoint.config
    assert torch.equal(candidate.source.head().dense(), prepared.checkpoint.head().dense())
    shapes = [weight.shape for layer in range(config.num_hidden_layers) for weight in weights(candidate.source, layer)]
    bits = sum(4 * rows * columns + 16 * rows * -(-columns // 128) for rows, columns in shapes)
    assert candidate.average_bits == pytest.approx(bits / sum(rows * columns for rows, columns in shapes))


def test_a_float_gguf_is_the_float_model(prepared: Inputs) -> None:
    candidate = read_gguf(prepared.checkpoint, prepared.path("twin-f16.gguf"))
    assert candidate.average_bits == 16
    for found, expected in zip(weights(candidate.source), weights(prepared.checkpoint), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("algorithm", "width", "symmetric"), [("default", 32, True), ("default", 32, False), ("k_quant", 16, False)]
)
def test_onnxruntime_is_read_back(
    prepared: Inputs, tmp_path, monkeypatch, algorithm: str, width: int, symmetric: bool
) -> None:
    options = {"algorithm": algorithm, "block_size": width, "symmetric": symmetric}
    out = tmp_path / "out.onnx"
    run_script(write_onnxruntime, monkeypatch, prepared.path("float"), "none", json.dumps(options), out)
    candidate = read_onnx(prepared.checkpoint, out)
    assert candidate.average_bits == pytest.approx(4 + (16 if symmetric else 20) / width)
    session = ort.InferenceSession(out)
    name = "model.layers.1.mlp.down_proj.weight"
    x_1K = np.random.default_rng(0).standard_normal((1, prepared.checkpoint.config.intermediate_size), np.float32)
    zeros = {each.name: np.zeros(each.shape, np.float32) for each in session.get_inputs()}
    (expected,) = session.run([f"{name}.y"], zeros | {f"{name}.x": x_1K})
    weight_NK = candidate.source.block(1).linears()["mlp.down_proj"].dense()
    np.testing.assert_allclose(x_1K @ weight_NK.numpy().T, expected, rtol=1e-4, atol=1e-5)


def test_three_bit_codes_are_one_stream() -> None:
    codes = torch.randint(0, 8, (5, 64))
    stream = [sum(int(code) << (3 * i) for i, code in enumerate(row)) for row in codes]
    words = [[stream[r] >> (32 * w) & 0xFFFFFFFF for w in range(6)] for r in range(5)]
    packed = torch.from_numpy(np.array(words, np.uint32).view(np.int32))
    assert torch.equal(three_bits.unpack(packed), codes)


def test_the_float_model_is_at_no_distance_from_itself(prepared: Inputs, few_windows, tmp_path) -> None:
    meter = Meter(prepared)
    metrics = meter.measure(Candidate(prepared.checkpoint, 16.0), TEXT)
    assert (metrics.perplexity_ratio.estimate, metrics.kl.mean.estimate) == (1.0, 0.0)
    assert metrics.num_tokens == 3 * 31
    write_metrics(metrics, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == metrics


def test_a_peer_is_compared_with_the_best_of_ours_that_is_no_larger(
    prepared: Inputs, few_windows, tmp_path, monkeypatch
) -> None:
    meter = Meter(prepared)
    results = []
    for bits in (2, 4, 8):
        row = ours(f"{bits} bits", rules=blocks(bits, "rtn"))
        candidate = quantized(prepared, monkeypatch, row, tmp_path / str(bits))
        metrics = meter.measure(candidate, TEXT)
        results.append(Result(row, candidate.average_bits, COST, {TEXT.name: metrics}))
    two, four, eight = results
    assert best_of_ours(results, TEXT.name, four.average_bits) is four
    assert best_of_ours(results, TEXT.name, 1.0) is None
    peer = Result(Row("peer", "llama"), four.average_bits + 1, COST, two.texts)
    gap = kl_difference(two.on(TEXT.name), four.on(TEXT.name))
    assert gap.estimate > 0
    lines = accuracy_table([peer, Failure(Row("broken", "llama"), "exit 1: no")], [*results, peer], TEXT.name)
    assert f"{gap.estimate:+.4f}" in lines[3]
    assert "4 bits" in lines[3]
    assert "failed:** exit 1: no" in lines[4]
    assert eight.average_bits > four.average_bits


def test_what_was_made_is_kept_until_its_inputs_change(tmp_path) -> None:
    def command(out: Path) -> list[str]:
        return [sys.executable, "-c", f"open({str(out)!r}, 'w').write('x')"]

    place = tmp_path / "row"
    assert kept(place, {"options": 1}) is None
    made = make(place, {"options": 1}, command)
    assert made.path.read_text() == "x"
    assert made.cost.cpu > 0
    assert made.sha256 == hashlib.sha256(b"x").hexdigest()
    assert kept(place, {"options": 1}) == made
    assert kept(place, {"options": 2}) is None


def test_a_program_that_fails_says_why(tmp_path) -> None:
    with pytest.raises(ProgramError, match="exit 3: no such thing"):
        make(tmp_path / "a", {}, lambda out: [sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])
    with pytest.raises(ProgramError, match="wrote nothing"):
        make(tmp_path / "b", {}, lambda out: [sys.executable, "-c", ""])
    assert kept(tmp_path / "a", {}) is None


def test_a_rows_name_stands_for_one_quantization() -> None:
    every = [row for section in rows.SECTIONS.values() for row in section]
    assert all(row == other for row in every for other in every if row.name == other.name)
    assert all(row in (*rows.FOUR_BITS, *rows.THREE_BITS) for row in rows.ELSEWHERE)


def test_a_second_run_makes_nothing_and_gives_the_same_tables(
    prepared: Inputs, few_windows, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(inputs_module, "SAMPLES", 2)
    monkeypatch.setattr(inputs_module, "LENGTH", 32)
    monkeypatch.setattr(run, "SECTIONS", {"Four bits": (rows.RTN, Row("absent", "llama"))})
    monkeypatch.setattr(run, "ELSEWHERE", (rows.RTN,))
    other = Path(assets.resolve("glmquant:held-out-zh.txt"))
    case = Case("tiny", "Tiny", CHATGLM2, (TEXT,), (TEXT, other), ("Four bits",))

    def tables(**options: bool) -> list[str]:
        chosen = {
            "work": prepared.directory.parent,
            "environments": tmp_path,
            "row": ["RTN"],
            "kept": False,
            "force": False,
            "own_text": False,
        }
        return run.Bench(argparse.Namespace(**chosen | options)).case(case)

    assert not any("RTN" in line for line in tables(kept=True))
    first = tables()
    assert sum("RTN" in line for line in first) == 2
    monkeypatch.setattr(maker, "make", None)
    assert tables() == tables(kept=True) == first
    assert sum("RTN" in line for line in tables(own_text=True)) == 1
    monkeypatch.setattr(maker, "code_sha256", lambda: "another version")
    assert not any("RTN" in line for line in tables(kept=True))


def test_a_program_that_compiled_a_part_of_itself_runs_again(tmp_path) -> None:
    built = tmp_path / "built"
    program = (
        "import pathlib, sys\n"
        "built, out = map(pathlib.Path, sys.argv[1:])\n"
        "print('known' if built.exists() else 'Compiling it')\n"
        "out.write_text(str(built.exists())); built.touch()"
    )
    made = make(tmp_path / "row", {}, lambda out: [sys.executable, "-c", program, str(built), str(out)], "Compiling")
    assert made.path.read_text() == "True"
    assert (tmp_path / "row" / "log.txt").read_text() == "known\n"
