"""Ranks, as torchrun starts them: what they exchange, how they part, and that one alone needs nothing."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from glmquant.core import ranks as module
from glmquant.core.ranks import ALONE, Ranks, are_several, current, joined
from tests.hints.follow import follows, refused
from tests.support.ranks import torchrun

EXCHANGES = """
import json, sys, torch
from glmquant.core.ranks import current, joined
with joined() as ranks:
    largest = torch.tensor([1.0 - ranks.rank, ranks.rank])
    total = torch.tensor([2.0**51 - 1, 1.0], dtype=torch.float64) * (ranks.rank + 1)
    ranks.max_(largest)
    ranks.sum_(total)
    try:
        ranks.require_same(lambda: {"colors": "red", "shapes": str(ranks.rank)})
    except ValueError as error:
        refusal = str(error)
    found = dict(
        current=current() == ranks,
        largest=largest.tolist(),
        total=total.tolist(),
        gather=ranks.gather({"rank": ranks.rank}),
        exchange=ranks.exchange([f"{ranks.rank} to {other}" for other in range(ranks.count)]),
        broadcast=ranks.broadcast(ranks.rank),
        from_first=ranks.from_first(lambda: [ranks.rank]),
        refusal=refusal,
    )
    ranks.barrier()
    open(f"{sys.argv[1]}/{ranks.rank}.json", "w").write(json.dumps(found))
"""
RESTARTED = """
import os, signal, sys
from glmquant.core.ranks import joined
with joined() as ranks:
    if ranks.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    print(sum(ranks.gather(ranks.rank + 1)))
"""


def script(directory: Path, text: str) -> Path:
    path = directory / "script.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_ranks_exchange(tmp_path: Path) -> None:
    done = torchrun(2, script(tmp_path, EXCHANGES), tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank, each in enumerate(found):
        assert each["current"]
        assert each["largest"] == [1, 1]
        assert each["total"] == [3 * (2**51 - 1), 3]
        assert each["gather"] == [{"rank": 0}, {"rank": 1}]
        assert each["exchange"] == [f"0 to {rank}", f"1 to {rank}"]
        assert each["broadcast"] == 0
        assert each["from_first"] == [0]
        assert "the ranks differ in shapes\n  where: rank 0: 0; rank 1: 1" in each["refusal"]


@pytest.mark.slow
def test_a_restart_meets_no_addresses_of_the_dead(tmp_path: Path) -> None:
    done = torchrun(2, script(tmp_path, RESTARTED), max_restarts=1)
    assert (done.returncode, done.stdout.split()) == (0, ["3", "3"]), done.stderr


def test_alone_all_is_ones_own() -> None:
    tensor = torch.tensor([1.0, -2.0])
    ALONE.max_(tensor)
    ALONE.sum_(tensor)
    assert tensor.tolist() == [1, -2]
    assert ALONE.gather("x") == ALONE.exchange(["x"]) == ["x"]
    assert ALONE.broadcast("x") == ALONE.from_first(lambda: "x") == "x"
    ALONE.barrier()
    ALONE.require_same(lambda: pytest.fail("asked for"))


def test_alone_nothing_is_imported() -> None:
    code = "from glmquant.core.ranks import joined\nwith joined(): pass\nimport sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_item_is_one_ranks(count: int) -> None:
    items = list(range(7))
    ranks = [Ranks(rank, count) for rank in range(count)]
    assert [item for each in ranks for item in each.run_of(items)] == items
    assert sorted(item for each in ranks for item in each.dealt(items)) == items
    sizes = [len(each.run_of(items)) for each in ranks]
    assert max(sizes) - min(sizes) <= 1


@follows("start the command with torchrun, or unset WORLD_SIZE")
def test_an_environment_that_names_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert are_several()
    refused(joined().__enter__, "unset WORLD_SIZE")
    monkeypatch.delenv("WORLD_SIZE")
    with joined() as ranks:
        assert ranks == current() == ALONE


@pytest.mark.parametrize(
    "wrong", [{"RANK": "2"}, {"RANK": "-1"}, {"RANK": "one"}, {"MASTER_ADDR": ""}, {"LOCAL_RANK": "x"}]
)
def test_an_environment_that_contradicts_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    """A rank that is none would wait for the others, and they for it."""
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
    for name, value in (told | wrong).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "MEETING", timedelta(seconds=1))
    refused(joined().__enter__, "start the command with torchrun")
