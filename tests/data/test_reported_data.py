"""What people handed such tools, with where they told of it, through the command line: read, or one true sentence."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmquant import assets
from glmquant.data.windows import TokenStream
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import open_checkpoint
from tests.support.golden import tokenizer as golden
from tests.test_cli import glmquant

REPORTED = Path(__file__).parent / "reported"
SMALL = ("--set", "calibration.num_samples=4", "--set", "calibration.seq_len=32", "--quiet")
FIRST = "今天的会议改到下午"


def calibrated(out: Path, data: object, *more: str) -> str:
    """The text of the samples drawn from ``data``."""
    assert glmquant("calibrate", assets.DEMO_MODEL, "--data", data, "--out", out, *SMALL, *more) == 0
    tokenizer = open_checkpoint(assets.DEMO_MODEL).tokenizer
    return "".join(tokenizer.decode(row) for row in read_calibration(out).samples.tokens_SL.tolist())


REPORTS = {
    "hiyouga/LlamaFactory#4106 a JSON array": "calibration-json/c4_demo.json",
    "hiyouga/LlamaFactory#3773 an object a line, named .json": "calibration-json/train.json",
    "hiyouga/LlamaFactory#5235 a table": "calibration-json/table.csv",
    "hiyouga/LlamaFactory#4876 Alpaca": "calibration-json/alpaca.json",
    "hiyouga/LlamaFactory#5923 ShareGPT": "calibration-chat-records/sharegpt.jsonl",
    "ModelCloud/GPTQModel#1549 messages": "calibration-chat-records/messages.jsonl",
    "Alpaca lines": "calibration-chat-records/alpaca.jsonl",
    "an array named .jsonl": "calibration-chat-records/array.jsonl",
    "a field content": "calibration-chat-records/content.jsonl",
    "null": "calibration-chat-records/null.jsonl",
    "turboderp/exllamav2#29 parquet": "calibration-containers/wikitext.parquet",
    "HandH1998/QQQ#11 jsonl.zst": "calibration-containers/val.jsonl.zst",
    "ModelCloud/GPTQModel#1469 jsonl.gz": "calibration-containers/c4.jsonl.gz",
    "xlsx": "calibration-containers/texts.xlsx",
}


@pytest.mark.parametrize("name", REPORTS.values(), ids=REPORTS)
def test_a_reported_file_calibrates_on_its_text_alone(tmp_path: Path, name: str) -> None:
    text = calibrated(tmp_path / "out", REPORTED / name)
    assert "今天的" in text
    assert not any(sign in text for sign in ('{"', "\\u", "instruction", '"text"', "conversations"))


@pytest.mark.parametrize("given", ["-", "/dev/stdin"])
def test_standard_input_is_read(tmp_path: Path, given: str) -> None:
    with gzip.open(REPORTED / "calibration-containers/c4.jsonl.gz") as file:
        content = file.read()
    command = ["calibrate", str(assets.DEMO_MODEL), "--data", given, "--out", str(tmp_path / "out"), *SMALL]
    done = subprocess.run([sys.executable, "-m", "glmquant", *command], input=content, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_substitution_is_read(tmp_path: Path) -> None:
    script = 'exec "$0" -m glmquant calibrate "$1" --data <(zcat "$2") --out "$3" "${@:4}"'
    archive = REPORTED / "calibration-containers/c4.jsonl.gz"
    command = [
        "bash",
        "-c",
        script,
        sys.executable,
        str(assets.DEMO_MODEL),
        str(archive),
        str(tmp_path / "out"),
        *SMALL,
    ]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def glaive() -> str:
    call = '{"name": "rate", "arguments": {"from": "USD"}}'
    said = [("human", "the rate?"), ("function_call", call), ("observation", '{"rate": 7}'), ("gpt", f"{FIRST}1点")]
    return json.dumps({"conversations": [{"from": role, "value": value} for role, value in said], "tools": "[]"}) + "\n"


def chats(first: str) -> str:
    said = [(first, "你好"), ("gpt", FIRST)]
    return json.dumps({"conversations": [{"from": role, "value": value} for role, value in said]}, ensure_ascii=False)


LINES = "".join(f"{FIRST}{n}点，请把材料提前发给我。\n" for n in range(40))
TABLE = "nr;text\n" + "".join(f"{n};{FIRST}{n}点，请把材料提前发给我。\n" for n in range(40))
READ: dict[str, tuple[str, str | bytes]] = {
    "B intel/auto-round#70 a local json with texts": ("tmp.json", json.dumps(LINES.splitlines())),
    "B ModelTC/LightCompress#364 a text a line": ("ppo_train.txt", LINES),
    "B huggingface/datasets#6851 gzip without an ending": ("train", gzip.compress(LINES.encode())),
    "C Giskard-AI/ai-inspector#15 semicolons": ("data.csv", TABLE),
    "C InternLM/lmdeploy#1504 the chat template in calibration": ("chat.json", f"[{','.join([chats('human')] * 40)}]"),
    "C Alpaca in a table": ("a.tsv", "instruction\toutput\n" + f"你好\t{FIRST}\n" * 60),
}


@pytest.mark.parametrize(("name", "content"), READ.values(), ids=READ)
def test_other_reported_forms_are_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    text = calibrated(tmp_path / "out", write(tmp_path / name, content))
    assert FIRST in text
    assert not any(sign in text for sign in ('{"', "\\u", "output", "nr;"))


def test_tool_calls_are_read_where_the_template_has_them(tmp_path: Path) -> None:  # hiyouga/LlamaFactory#2529
    tokenizer = golden("chatglm3-tiny")
    ids = next(TokenStream(write(tmp_path / "glaive.json", glaive() * 3), tokenizer).documents())
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert '<|assistant|> rate {"from": "USD"}<|observation|>' in text


USER = {"role": "user", "content": "a"}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1e0833\nsize 886\n"
REFUSED: dict[str, tuple[str, str | bytes, tuple[str, ...]]] = {
    "C axolotl-ai-cloud/axolotl#723 the assistant first": (
        "a.jsonl", chats("gpt"), ("turn 1 is 'assistant', at the beginning", "a.jsonl, line 1")),
    "C unslothai/unsloth#334 roles that do not alternate": (
        "a.jsonl", json.dumps({"messages": [USER, USER, {"role": "assistant", "content": "b"}]}),
        ("turn 2 is 'user', behind 'user'",)),
    "D xxw1995/chatglm3-finetune#11 another encoding": (
        "samples.json", json.dumps([{"text": LINES}], ensure_ascii=False).encode("gb18030"),
        ("not UTF-8", "calibration.encoding=gb18030")),
    "D Open-QI/nobel-prize-predict#3 a table in GBK": (
        "data.csv", TABLE.encode("gbk"), ("not UTF-8", "calibration.encoding=gb18030")),
    "D biomarkersParkinson/paradigma#250 an LFS pointer": ("a.json", LFS, ("a Git LFS pointer", "git lfs pull")),
    "D benedekrozemberczki/datasets#10 a zip of LFS pointers": (
        "deezer_edges.csv", LFS, ("a Git LFS pointer", "git lfs pull")),
    "D an error page in place of a download": ("a.parquet", "<!DOCTYPE html><html>404</html>", ("an HTML page",)),
    "D a PDF": ("book.txt", b"%PDF-1.7\n", ("a PDF", "pdftotext")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_one_true_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | bytes, words: tuple[str, ...]
) -> None:
    data = write(tmp_path / name, content)
    assert glmquant("calibrate", assets.DEMO_MODEL, "--data", data, "--out", tmp_path / "out", *SMALL) == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []
    assert "iconv -f GB18030" not in message
    assert not (tmp_path / "out").exists()


LABELED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "I HumanSignal/label-studio#4033 a comma without quotes": ("unquoted.csv", "", ("unquoted.csv, line 4", "3 cells")),
    "I codalab/codalab-competitions#2696 the separator in the data": (
        "a.csv", "text,label\na,x\nb,c,y\n", ("a.csv, line 3", "3 cells under a header of 2", "in quotes")),
    "I kakaobrain/kor-nlu-datasets#2 a tab too many": (
        "sts.tsv", "text\tlabel\na\tx\nb\t\ty\n", ("sts.tsv, line 3", "3 cells under a header of 2", "a tab")),
    "I EducationalTestingService/skll#285 labels that are no whole numbers": (
        "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 1.6}', ("the label is the number 1.6", "line 2")),
    "I datarobot/datarobot-user-models#391 whole numbers as decimals": (
        "a.jsonl", '{"text": "a", "label": 1.0}\n{"text": "b", "label": 0.0}', ("the number 1.0", "pandas")),
    "I two files joined": ("a.csv", "text,label\na,x\ntext,label\nb,y\n", ("line 3", "the header stands there again")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), LABELED.values(), ids=LABELED)
def test_labeled_records_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, words: tuple[str, ...]
) -> None:
    data = write(tmp_path / name, content) if content else REPORTED / "csv-ragged" / name
    out = tmp_path / "out"
    assert glmquant("train-classifier", assets.DEMO_MODEL, "--data", data, "--out", out, "--quiet") == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []
    assert not out.exists()


def test_whole_number_labels_are_rows_in_their_order(tmp_path: Path) -> None:  # mljar/mljar-supervised#245
    out, settings = tmp_path / "out", ("--set", "train.epochs=1", "--set", "train.max_length=16", "--quiet")
    data = REPORTED / "label-order/ints.jsonl"
    assert glmquant("train-classifier", assets.DEMO_MODEL, "--data", data, "--out", out, *settings) == 0
    names = json.loads((out / "config.json").read_text())["id2label"]
    assert [names[str(row)] for row in range(12)] == [str(row) for row in range(12)]
