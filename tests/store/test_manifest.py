"""``glmquant.json`` written and read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.errors import CheckpointError
from glmquant.recipe.check_options import Limits
from glmquant.recipe.load import load_recipe
from glmquant.recipe.schema import Recipe
from glmquant.store.manifest import (
    FORMAT_VERSION,
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
    format_version=FORMAT_VERSION,
    glmquant_version="0.1.0",
    source_name="chatglm2-6b-模型",
    source_fingerprint="ab" * 32,
    family="chatglm2",
    recipe={"version": 1, "rules": [{"match": "*"}]},
    calibration=None,
    groups=RECORDS,
    libraries={"torch": "2.13.0"},
    calibration_texts=("ef" * 32,),
    limits=Limits.model_validate({"perplexity_ratio": 1.05, "accuracy_drop": {"value": 0.01, "on": "estimate"}}),
)


def written(directory: Path, manifest: Manifest = MANIFEST, **changes: object) -> Path:
    path = directory / "glmquant.json"
    path.write_text(json.dumps(json.loads(manifest_bytes(manifest)) | changes))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path)) == MANIFEST
    assert read_manifest(written(tmp_path, replace(MANIFEST, calibration="cd" * 32))).calibration == "cd" * 32
    assert records_from_json(records_to_json(RECORDS), tmp_path) == RECORDS


def test_a_repository_is_recorded_with_commit_and_hashes(tmp_path: Path) -> None:
    manifest = replace(
        MANIFEST, source_name="THUDM/chatglm2-6b", source_revision="d2" * 20, source_files={"config.json": "ab" * 20}
    )
    assert read_manifest(written(tmp_path, manifest)) == manifest
    assert json.loads(manifest_bytes(manifest))["source_revision"] == "d2" * 20


def test_a_source_on_this_machine_alone_has_neither(tmp_path: Path) -> None:
    assert not {"source_revision", "source_files"} & set(json.loads(manifest_bytes(MANIFEST)))
    assert (read_manifest(written(tmp_path)).source_revision, read_manifest(written(tmp_path)).source_files) == (
        None,
        {},
    )


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
        ({"format_version": 4}, "format_version is 4"),
        ({"format_version": 0}, "format_version is 0"),
        ({"format_version": True}, "format_version is True"),
        ({"format_version": None}, "format_version is None"),
        ({"format_version": [2]}, r"format_version is \[2\]"),
        ({"source_fingerprint": 1}, "source_fingerprint: "),
        ({"family": "llama"}, "family: "),
        ({"extra": 1}, "extra: "),
        ({"limits": {"perplexity_ratio": -1}}, "limits: "),
        ({"limits": {"perplexty_ratio": 1}}, r"limits\.perplexty_ratio: "),
        ({"groups": [GROUP | {"spec": {"bits": 3}}]}, r"groups\.0\.spec: .*bits is 3"),
        ({"groups": [GROUP | {"weight_error": "small"}]}, r"groups\.0\.weight_error: "),
        ({"recipe": []}, "recipe: "),
    ],
)
def test_errors_name_the_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{field}[\s\S]*glmquant\.json"):
        read_manifest(written(tmp_path, **changes))


VERSION_1 = Path(__file__).parent / "manifests" / "version-1.json"
"""Of the golden ChatGLM2 by int4-g128-gptq, as the release wrote it that wrote version 1."""


def test_a_manifest_of_version_1_has_the_names_of_today() -> None:
    written_then = json.loads(VERSION_1.read_text(encoding="utf-8"))
    assert (written_then["format_version"], written_then["recipe"]["fit"]["compensate"]) == (1, 0.5)
    manifest = read_manifest(VERSION_1)
    assert manifest.format_version == FORMAT_VERSION
    samples = {
        "calibration.num_samples": 2,
        "calibration.seq_len": 16,
        "calibration.data": ["glmquant:calibration.txt"],
    }
    today = load_recipe("int4-g128-gptq", {**samples, "store.layout": manifest.recipe["store"]["layout"]})
    expected = today.identity()
    for rule in expected["rules"]:
        rule["method"].pop("refine_scales", None)  # an option that there was not
    assert manifest.recipe == expected
    assert Recipe.model_validate(manifest.recipe).identity() == today.identity()
    assert [group.name for group in manifest.groups] == [group["name"] for group in written_then["groups"]]


def test_a_migrated_manifest_is_written_as_one_of_today(tmp_path: Path) -> None:
    manifest = read_manifest(VERSION_1)
    assert read_manifest(written(tmp_path, manifest)) == manifest


def test_a_key_of_version_1_under_both_its_names_is_refused(tmp_path: Path) -> None:
    recipe = {"fit": {"compensate": 1, "error_propagation": 0}}
    with pytest.raises(
        CheckpointError, match=r"both 'compensate' and 'error_propagation'[\s\S]*glmquant\.json, recipe"
    ):
        read_manifest(written(tmp_path, format_version=1, recipe=recipe))
