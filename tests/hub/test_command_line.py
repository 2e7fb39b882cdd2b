"""Ids at the command line, with the environment that users of huggingface_hub know."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.cli import main
from glmquant.errors import CheckpointError, HubError
from glmquant.hub.locate import locate
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.manifest import read_manifest
from tests.support.adapters import packaged_adapter
from tests.support.hub import COMMIT, Hub, Repository, running
from tests.support.paths import CHATGLM2

ID = "THUDM/chatglm2-6b"


def glmquant(*arguments: object, desk: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, in an empty working directory."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODELSCOPE_"))}
    command = [sys.executable, "-m", "glmquant", *map(str, arguments)]
    (desk / "desk").mkdir(exist_ok=True)
    environment = inherited | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": str(desk)} | environment
    return subprocess.run(command, env=environment, cwd=desk / "desk", capture_output=True, text=True, check=False)


def test_the_environment_is_honored_and_the_cache_is_enough_afterward(tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "home"), "desk": tmp_path}
    with running() as hub:
        hub.repositories[ID] = Repository.of(CHATGLM2)
        first = glmquant("inspect", ID, "--json", HF_ENDPOINT=hub.address, HF_TOKEN="hf_mine", **place)  # type: ignore[arg-type]
        assert first.returncode == 0, first.stderr
        assert {request.token for request in hub.requests if not request.path.startswith("/cdn/")} == {"Bearer hf_mine"}
    told = " ".join(first.stderr.split())
    assert f"downloading 2.24 MB of {ID}, commit {COMMIT}" in told
    assert f"`hf cache rm model/{ID}`" in told
    assert f"download {ID} (bytes): " in told
    assert (tmp_path / "home" / "hub" / "models--THUDM--chatglm2-6b" / "refs" / "main").read_text() == COMMIT
    again = glmquant("inspect", ID, "--json", HF_HUB_OFFLINE="1", **place)  # type: ignore[arg-type]
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_offline_with_nothing_there_is_bad_input(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    done = glmquant("inspect", ID, "--quiet", desk=tmp_path, HF_HUB_CACHE=cache, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"glmquant: {ID} is not in the cache, and HF_HUB_OFFLINE is set")
    assert "Traceback" not in done.stderr


def test_a_run_names_the_repository_in_all_it_writes(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Hello world, 你好世界。" * 90, encoding="utf-8")
    fewer = ["check.num_tokens=64", "check.seq_len=32", f"check.text=[{tmp_path / 'text.txt'}]", "check.tasks=[]"]
    settings = [word for setting in fewer for word in ("--set", setting)]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["run", f"{ID}@main", "--recipe", "int8-rtn", "--out", str(out), "--quiet", *settings])
    assert stopped.value.code in (0, 1, 3)
    manifest = read_manifest(out / "quantized" / "glmquant.json")
    assert (manifest.source_name, manifest.source_revision) == (ID, COMMIT)
    assert json.loads((out / "report" / "report.json").read_text())["setting"]["baseline"]["name"] == ID


VERBS: dict[str, list[str]] = {
    "run": ["run", ID, "--recipe", "int8-rtn", "--out", "out"],
    "inspect": ["inspect", ID],
    "inspect --compare": ["inspect", str(CHATGLM2), "--compare", ID],
    "calibrate": ["calibrate", ID, "--out", "out"],
    "quantize": ["quantize", ID, "--recipe", "int8-rtn", "--out", "out"],
    "export": ["export", ID, "--out", "out"],
    "check": ["check", "onnx", "--baseline", ID],
    "train-classifier": ["train-classifier", ID, "--data", "glmquant:reviews.jsonl", "--out", "out"],
}


@pytest.mark.parametrize("arguments", VERBS.values(), ids=VERBS)
def test_every_command_asks_the_hub_and_leaves_nothing_where_it_refuses(
    hub: Hub, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del hub.repositories[ID]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert f"no repository {ID}" in capsys.readouterr().err
    assert [request.path for request in hub.requests] == [f"/api/models/{ID}/revision/main"]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("model", ["./chatglm2-6", "./THUDM/chatglm2-6b"])
def test_a_path_stays_a_path(hub: Hub, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", model])
    assert stopped.value.code == 2
    assert f"where: {model}" in capsys.readouterr().err
    assert hub.requests == []


def followed(hint: str, hub: Hub, desk: Path) -> str:
    """The directory that the `hf download` of a hint prints."""
    command = re.search(r"`(hf download [^`]+)`", hint)
    assert command is not None
    program, *arguments = command[1].split()
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(desk / "home")}
    hf = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(hf, env=environment, check=True, capture_output=True, text=True)
    printed = re.search(r"/\S+/snapshots/\w+", done.stdout)
    assert printed is not None
    return printed[0]


def test_the_way_past_a_directory_of_the_first_name_works(hub: Hub, tmp_path: Path) -> None:
    Path("THUDM/chatglm3-6b").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"did you mean \./THUDM/chatglm3-6b\?") as caught:
        locate(f"{ID}@main")
    found = locate(followed(str(caught.value), hub, tmp_path))
    assert found.origin is not None
    assert found.origin.name == ID
    open_checkpoint(found.path)


def test_an_adapters_repository_says_how_to_use_it(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/my-lora"] = Repository.of(packaged_adapter(tmp_path / "lora"))
    with pytest.raises(HubError, match="it is an adapter") as caught:
        gq.inspect("me/my-lora")
    adapted = gq.inspect(assets.DEMO_MODEL, adapter=followed(str(caught.value), hub, tmp_path))
    assert "my-lora" in str(caught.value)
    assert adapted.to_dict() != gq.inspect(assets.DEMO_MODEL).to_dict()
