from pathlib import Path

import pytest

import glmquant as gq
from glmquant.cli.rendering import comparison_text
from glmquant.errors import CheckpointError
from tests.support.paths import CHATGLM2
from tests.test_cli import glmquant


def quantized(out: Path, bits: int) -> Path:
    rules = [
        {"match": "lm_head", "keep": True},
        {"match": "layers.*", "spec": {"bits": bits, "group_size": 32}},
    ]
    gq.quantize(CHATGLM2, gq.load_recipe(None, {"rules": rules}), out=out)
    return out


def test_what_eight_bits_would_buy_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    four, eight = quantized(tmp_path / "four", 4), quantized(tmp_path / "eight", 8)
    estimated, measured = gq.compare(four, four), gq.compare(eight, four)
    assert [group.second_error for group in measured.groups] == sorted(
        (group.second_error for group in measured.groups), reverse=True
    )
    assert sum(group.share for group in measured.groups) == pytest.approx(1)
    known = {group.name: group for group in measured.groups}
    for guess in estimated.groups[:-1]:
        truth = known[guess.name]
        assert truth.raised_error == truth.first_error
        assert guess.raised_error == pytest.approx(truth.raised_error, rel=0.3)
    head = known["lm_head"]
    assert (head.first_bits, head.second_error, head.raised_bytes) == (None, 0.0, 0)
    bytes_added = sum(group.raised_bytes for group in measured.groups)
    assert bytes_added == pytest.approx(
        measured.first_bytes - measured.second_bytes, rel=0.05
    )  # zero points of symmetric groups are written too
    assert glmquant("inspect", eight, "--compare", four) == 0
    text = capsys.readouterr().out
    assert "four (" in text
    assert "8 bits for " in text
    assert text.strip() == comparison_text(measured)


def test_directories_that_cannot_be_compared(tmp_path: Path) -> None:
    four = quantized(tmp_path / "four", 4)
    with pytest.raises(CheckpointError, match=r"no glmquant\.json"):
        gq.compare(CHATGLM2, four)
    assert glmquant("inspect", four, "--compare", CHATGLM2) == 2
