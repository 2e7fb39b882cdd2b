"""``glmquant.json`` written and read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.errors import CheckpointError
from glmquant.store.manifest import (
    GroupRecord,
    Manifest,
    library_versions,
    manifest_bytes,
    read_manifest,
    records_from_json,
    records_to_json,
)

RECORDS = (
    GroupRecord("layers.0.mlp.down_proj", QuantSpec(8, -1, symmetric=False), "gptq", 1.5e-05, 0.25),
    GroupRecord("lm_head"),
)
MANIFEST = Manifest(
    format_version=1,
    glmquant_version="0.1.0",
    source_name="chatglm2-6b-模型",
    source_fingerprint="ab" * 32,
    family="chatglm2",
    recipe={"version": 1, "rules": [{"match": "*"}]},
    calibration=None,
    groups=RECORDS,
    libraries={"torch": "2.13.0"},
)


def written(directory: Path, manifest: Manifest = MANIFEST, **changes: object) -> Path:
    path = directory / "glmquant.json"
    path.write_text(json.dumps(json.loads(manifest_bytes(manifest)) | changes))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path)) == MANIFEST
    assert read_manifest(written(tmp_path, replace(MANIFEST, calibration="cd" * 32))).calibration == "cd" * 32
    assert records_from_json(records_to_json(RECORDS), tmp_path) == RECORDS


def test_it_is_for_people_too() -> None:
    text = manifest_bytes(MANIFEST).decode()
    assert '"source_name": "chatglm2-6b-模型"' in text
    assert text.endswith("}\n")
    assert manifest_bytes(MANIFEST) == text.encode()


def test_versions_of_libraries() -> None:
    assert library_versions().keys() == {"torch"}


GROUP: dict[str, Any] = {"name": "lm_head", "spec": None, "method": None, "weight_error": None, "output_error": None}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"source_fingerprint": 1}, "source_fingerprint: "),
        ({"family": "llama"}, "family: "),
        ({"extra": 1}, "extra: "),
        ({"groups": [GROUP | {"spec": {"bits": 3}}]}, r"groups\.0\.spec: .*bits is 3"),
        ({"groups": [GROUP | {"weight_error": "small"}]}, r"groups\.0\.weight_error: "),
        ({"recipe": []}, "recipe: "),
    ],
)
def test_errors_name_the_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{field}[\s\S]*glmquant\.json"):
        read_manifest(written(tmp_path, **changes))
