"""What packaged recipes write is what they wrote at the commit that :mod:`tests.same_bytes.compare` names."""

import json
from pathlib import Path

import pytest

from tests.same_bytes.compare import KNOWN, differences, unchanged
from tests.same_bytes.models import write_models
from tests.same_bytes.record import by_stage, machine_class, record


def test_every_packaged_recipe_writes_the_bytes_it_wrote(tmp_path: Path) -> None:
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    here = machine_class()
    if here not in known:
        pytest.skip(f"no hashes for {here}; python -m tests.same_bytes.compare makes both sides")
    write_models(tmp_path / "models")
    found = record(tmp_path / "models")
    assert by_stage({case: unchanged(files) for case, files in found.items()}) == known[here]


def test_a_file_that_is_other_or_missing_is_a_difference() -> None:
    old = {"model: recipe": {"onnx/a": "1", "onnx/b": "2", "report/c": "3"}}
    new = {"model: recipe": {"onnx/a": "1", "onnx/b": "9"}}
    assert differences(old, old) == []
    assert differences(old, new) == ["model: recipe: onnx/b", "model: recipe: report/c"]
    assert set(by_stage(old).items()) ^ set(by_stage(new).items())


def test_only_a_calibration_is_expected_to_differ() -> None:
    assert unchanged({"calibration/calibration.json": "1", "onnx/a": "2"}) == {"onnx/a": "2"}
