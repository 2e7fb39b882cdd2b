"""The command line: exit codes, what goes where, and one clear message for every kind of bad input."""

import io
import json
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import glmquant as gq
from glmquant import assets
from glmquant.cli import main
from glmquant.cli.options import bytes_from
from glmquant.core.units import size
from tests.support.paths import CHATGLM2, copied

SMALL = ["--set", "calibration.num_samples=2", "--set", "calibration.seq_len=32"]
SHARD = "pytorch_model-00001-of-00002.bin"


def glmquant(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def edited_config(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


def unknown_model_type(model: Path) -> str:
    edited_config(model, model_type="llama")
    return "config.json"


def no_config(model: Path) -> str:
    (model / "config.json").unlink()
    return "config.json"


def missing_shard(model: Path) -> str:
    (model / SHARD).unlink()
    return SHARD


def truncated_shard(model: Path) -> str:
    path = model / SHARD
    path.write_bytes(path.read_bytes()[:-5000])
    return SHARD


def wrong_shape(model: Path) -> str:
    edited_config(model, ffn_hidden_size=320)
    return "dense_h_to_4h"


def poisoned(value: float) -> Callable[[Path], str]:
    def poison(model: Path) -> str:
        path = model / SHARD
        tensors = torch.load(path, weights_only=True)
        tensors["transformer.encoder.layers.0.self_attention.dense.weight"][3, 5] = value
        torch.save(tensors, path)
        return "dense.weight"

    return poison


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch executed",)


def code_inside(model: Path) -> str:
    with zipfile.ZipFile(model / SHARD, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
        archive.writestr("archive/version", "3")
    return "system"


def missing_tokenizer(model: Path) -> str:
    (model / "tokenizer.model").unlink()
    return "tokenizer.model"


def index_outside(model: Path) -> str:
    path = model / "pytorch_model.bin.index.json"
    values = json.loads(path.read_text())
    name = next(iter(values["weight_map"]))
    values["weight_map"][name] = "../elsewhere.bin"
    path.write_text(json.dumps(values))
    return "elsewhere.bin"


DAMAGES = {
    "unknown model_type": unknown_model_type,
    "no config.json": no_config,
    "index naming a missing shard": missing_shard,
    "index pointing outside": index_outside,
    "truncated shard": truncated_shard,
    "tensor of the wrong shape": wrong_shape,
    "NaN weights": poisoned(float("nan")),
    "Inf weights": poisoned(float("inf")),
    "a .bin carrying code": code_inside,
    "missing tokenizer": missing_tokenizer,
}


def assert_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, names: str) -> None:
    """One message that names what is wrong, no traceback, and nothing beside what the test itself put there."""
    captured = capsys.readouterr()
    assert captured.err.startswith("glmquant: ")
    assert names in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
    assert not Path("executed").exists()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("recipe", ["int8-rtn", "int4-g128-gptq"])
def test_a_damaged_checkpoint_is_refused(
    damage: Callable[[Path], str], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copied(CHATGLM2, tmp_path)
    names = damage(model)
    assert glmquant("run", model, "--recipe", recipe, "--out", tmp_path / "out", "--quiet", *SMALL) == 2
    assert_refused(capsys, tmp_path, names)


@pytest.mark.parametrize(("model", "names"), [("nowhere", "nowhere"), (__file__, "a directory")])
def test_no_checkpoint_directory(model: str, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("run", model, "--recipe", "int8-rtn", "--out", tmp_path / "out", "--quiet") == 2
    assert_refused(capsys, tmp_path, names)


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"", "is empty"), (b"too short", "need"), (b"ok\n\xff\xfe", "UTF-8")],
    ids=["empty", "too short", "not UTF-8"],
)
def test_calibration_text(content: bytes, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    assert glmquant("calibrate", CHATGLM2, "--data", text, "--out", tmp_path / "out", "--quiet", *SMALL) == 2
    assert_refused(capsys, tmp_path, names)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"calibrations": {}}, "calibrations"),
        ({"rules": [{"match": "layer.*", "spec": {"bits": 4}}]}, "rules.0.match"),
        ({"rules": [{"match": "layers.*", "spec": {"bits": 4, "group_size": 96}}]}, "rules.0.spec"),
    ],
    ids=["unknown key", "rule that matches nothing", "group size"],
)
def test_recipe(change: dict[str, object], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({"version": 1, **change}))
    assert glmquant("run", CHATGLM2, "--recipe", recipe, "--out", tmp_path / "out", "--quiet") == 2
    assert_refused(capsys, tmp_path, names)


def test_a_labeled_line_without_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "labeled.jsonl"
    data.write_text('{"text": "a", "label": "x"}\n{"text": "b"}\n', encoding="utf-8")
    assert glmquant("export", CHATGLM2, "--out", tmp_path / "bundle", "--quiet") == 0
    capsys.readouterr()
    arguments = ["check", tmp_path / "bundle", "--baseline", CHATGLM2, "--task", data, "--out", tmp_path / "out"]
    assert glmquant(*arguments, "--quiet") == 2
    assert_refused(capsys, tmp_path, "line 2")


def test_an_output_directory_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    assert glmquant("export", CHATGLM2, "--out", taken, "--quiet") == 2
    assert_refused(capsys, tmp_path, "not empty")
    assert (taken / "thesis.txt").read_text() == "mine"


def test_an_output_directory_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert glmquant("export", CHATGLM2, "--out", tmp_path / "file" / "bundle", "--quiet") == 2
    assert_refused(capsys, tmp_path, "cannot write")


def test_a_weight_beyond_float16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    quantized = [
        "quantize",
        CHATGLM2,
        "--recipe",
        "int8-rtn",
        "--out",
        model,
        "--quiet",
        "--set",
        "rules.1.match=lm_h*",
    ]
    assert glmquant(*quantized, "--set", "rules.0.match=layers.*") == 0
    shard = next(model.glob("model-00002*.safetensors"))
    tensors = load_file(shard)
    tensors["model.layers.0.input_layernorm.weight"] = torch.full((128,), 1e6)
    save_file(tensors, shard, metadata={"format": "pt"})
    capsys.readouterr()
    assert glmquant("export", model, "--out", tmp_path / "out", "--quiet", "--set", "export.dtype=float16") == 2
    assert_refused(capsys, tmp_path, "input_layernorm")


def test_usage_errors_have_the_code_of_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("quantize") == 2
    assert glmquant("export") == 2
    assert "Usage" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("--debug", "inspect", tmp_path / "nowhere") == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert f"\nglmquant: the checkpoint directory does not exist\n  where: {tmp_path / 'nowhere'}\n" in told


def demo_run(tmp_path: Path, *extra: str) -> list[object]:
    text = ["--set", "check.num_tokens=512", "--set", "check.seq_len=64", "--set", "check.tasks=[]"]
    return ["demo", "--out", tmp_path / "out", "--recipe", "int8-rtn", *text, *extra]


def test_results_go_to_stdout_and_progress_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert glmquant(*demo_run(tmp_path, "--json")) == 0
    captured = capfd.readouterr()
    report = json.loads(captured.out)
    assert report["verdict"] == "pass"
    assert "quantizing" in captured.err
    assert "\x1b" not in captured.err
    assert (tmp_path / "out" / "report" / "junit.xml").is_file()
    assert json.loads((tmp_path / "out" / "report" / "report.json").read_text()) == report


def test_quiet_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert glmquant(*demo_run(tmp_path, "--quiet")) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("limit", "code"), [("0.5", 1), ("2.0", 0)])
def test_a_missed_limit_has_an_exit_code_of_its_own(tmp_path: Path, limit: str, code: int) -> None:
    assert glmquant(*demo_run(tmp_path, "--quiet", "--set", f"check.limits.perplexity_ratio={limit}")) == code
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()


def test_an_undecided_limit_has_one_too(tmp_path: Path) -> None:
    limit = '{"value": 1.0, "on": "interval"}'
    few = ["--set", "check.num_tokens=256", "--set", f"check.limits.perplexity_ratio={limit}"]
    assert glmquant(*demo_run(tmp_path, "--quiet", *few)) == 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, exported as it is."""
    return gq.export(assets.DEMO_MODEL, out=tmp_path_factory.mktemp("demo") / "onnx").path


EIGHT = gq.GenerationOptions(max_new_tokens=8)


def test_generate_prints_the_answer(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("generate", bundle, "The Debian", "--raw", "--max-new-tokens", 8) == 0
    answer = "".join(gq.generate(bundle, "The Debian", chat=False, options=EIGHT))
    assert capsys.readouterr().out == f"{answer}\n"
    assert len(answer.split()) > 2


def test_chat_answers_each_line_with_the_turns_before_in_mind(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["The Debian system", "很好，非常喜欢"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{lines[0]}\n\n{lines[1]}\n"))
    assert glmquant("chat", bundle, "--max-new-tokens", 8) == 0
    conversation = gq.open_chat(bundle, options=EIGHT)
    answers = ["".join(conversation.say(line)) for line in lines]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers)
    alone = "".join(gq.open_chat(bundle, options=EIGHT).say(lines[1]))
    assert len({*answers, alone}) == 3
    assert all(answer.strip() for answer in answers)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_an_interrupt_has_an_exit_code_of_its_own(bundle: Path) -> None:
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background does not
    code = f"{heed}\nfrom glmquant.cli import main\nmain()"
    command = [sys.executable, "-c", code, "chat", str(bundle), "--max-new-tokens", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("Debian\n")
        process.stdin.flush()
        assert process.stdout.readline() != ""
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "interrupted\n"


def test_a_provider_that_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("export", CHATGLM2, "--out", tmp_path / "onnx", "--quiet") == 0
    capsys.readouterr()
    assert glmquant("generate", tmp_path / "onnx", "a", "--raw", "--provider", "cuda") == 2
    assert_refused(capsys, tmp_path, "CUDA")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "verb",
    [
        ["calibrate", CHATGLM2, "--out"],
        ["quantize", CHATGLM2, "--recipe", "int8-rtn", "--out"],
        ["run", CHATGLM2, "--recipe", "int8-rtn", "--out"],
        ["check", CHATGLM2, "--baseline", CHATGLM2, "--out"],
    ],
    ids=lambda verb: verb[0],
)
def test_a_gpu_that_is_missing_is_told(verb: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant(*verb, tmp_path / "out", "--device", "cuda", "--quiet") == 2
    assert_refused(capsys, tmp_path, "where: --device cuda")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("4 gb", 4 * 10**9), ("512MB", 512 * 10**6), ("3.5GiB", 7 * 2**29), ("0.5KiB", 512)],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_from(text) == size


@pytest.mark.parametrize("text", ["", "GB", "nan", "-1GB", "4XB", "four", "1e3GB"])
def test_what_is_no_size_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", CHATGLM2, f"--memory-limit={text}") == 2
    assert "is no size; give one such as 4GB" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_inspect_reads_headers_only_and_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", CHATGLM2, "--recipe", "int4-g128-gptq", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["config"]["family"] == "chatglm2"
    assert 4 < values["average_bits"] < 9


def test_inspect_shows_what_is_the_same_in_neighboring_layers_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eight, four = ({"spec": {"bits": bits, "group_size": 32}, "method": {"kind": "rtn"}} for bits in (8, 4))
    rules = [{"match": "layers.1.self_attn.*", **eight}, {"match": "layers.*", **four}]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"version": 1, "rules": rules}))
    assert glmquant("inspect", assets.DEMO_MODEL, "--recipe", tmp_path / "recipe.yaml") == 0
    shown = re.findall(r"^    (layers\S+) +(\w+ bits).*  (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert glmquant("inspect", assets.DEMO_MODEL, "--recipe", tmp_path / "recipe.yaml", "--json") == 0
    of_layers = [each for each in json.loads(capsys.readouterr().out)["groups"] if each["name"] != "lm_head"]
    assert len(of_layers) == 6 * 4
    bytes_of = {each["name"]: each["num_bytes"] for each in of_layers}
    assert shown == [
        ("layers.0.self_attn.qkv_proj", "4 bits", size(bytes_of["layers.0.self_attn.qkv_proj"])),
        ("layers.0.self_attn.o_proj", "4 bits", size(bytes_of["layers.0.self_attn.o_proj"])),
        ("layers.0-5.mlp.gate_up_proj", "4 bits", "6 × " + size(bytes_of["layers.0.mlp.gate_up_proj"])),
        ("layers.0-5.mlp.down_proj", "4 bits", "6 × " + size(bytes_of["layers.0.mlp.down_proj"])),
        ("layers.1.self_attn.qkv_proj", "8 bits", size(bytes_of["layers.1.self_attn.qkv_proj"])),
        ("layers.1.self_attn.o_proj", "8 bits", size(bytes_of["layers.1.self_attn.o_proj"])),
        ("layers.2-5.self_attn.qkv_proj", "4 bits", "4 × " + size(bytes_of["layers.2.self_attn.qkv_proj"])),
        ("layers.2-5.self_attn.o_proj", "4 bits", "4 × " + size(bytes_of["layers.2.self_attn.o_proj"])),
    ]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """In a file system of 300 kB of its own, where the system lets us make one."""
    small = tmp_path / "small"
    small.mkdir()
    command = [sys.executable, "-m", "glmquant", "export", str(CHATGLM2), "--out", str(small / "out"), "--quiet"]
    mount = f'mount -t tmpfs -o size=300k none {small} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *command], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    assert done.returncode == 2
    assert "the disk is full" in done.stderr
    assert "out.partial" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_reads_overrides_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", assets.DEMO_MODEL, "--set", "no.such=1") == 2
    assert "unknown key 'no'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "beside",
    [("--recipe", "int8-rtn"), ("--set", "model.family=glm"), ("--memory-limit", "4GB")],
    ids=lambda pair: pair[0],
)
def test_what_a_comparison_would_not_read_is_refused(
    beside: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glmquant("inspect", tmp_path, "--compare", tmp_path, *beside) == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert f"it takes no {beside[0]}" in told
