import json

import onnx
import onnxruntime as ort
import pytest

from glmquant.errors import ExportError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import HARMLESS, read_settings
from tests.support.models import TINY, random_source


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_a_missing_provider_is_an_error_before_anything_is_read(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"provider cuda is not available.*\n.*where: provider") as caught:
        OnnxModel.open(tmp_path / "nothing", provider="cuda")
    assert "onnxruntime-gpu" in str(caught.value)


def test_settings_carry_the_sessions_entries(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(profile="standard", accuracy_level=1), tmp_path)
    settings = read_settings(tmp_path)
    assert settings.entries["session.qdq_matmulnbits_accuracy_level"] == "1"
    assert (settings.eos_ids, settings.pad_id) == ((2,), 0)


OUTSIDE = {
    "session.model_external_initializers_file_folder_path": "/etc",
    "session.optimized_model_filepath": "/etc/x",
    "ep.context_file_path": "x",
    "session.custom_ops_library": "x.so",
    "session.load_model_format": "ORT",
    "session.intra_op.allow_spinning": "1\n2",
    "session.qdq_matmulnbits_accuracy_level": 4,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_only_entries_that_decide_how_to_compute_are_taken(tmp_path, name: str) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    change(tmp_path, lambda model: model["decoder"]["session_options"].update({name: OUTSIDE[name]}))
    with pytest.raises(ExportError, match=f"session_options sets '{name}'"):
        read_settings(tmp_path)


def test_a_harmless_entry_is_taken(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    change(tmp_path, lambda model: model["decoder"]["session_options"].update({HARMLESS[0]: "1"}))
    assert read_settings(tmp_path).entries == {HARMLESS[0]: "1"}
    assert OnnxModel.open(tmp_path, num_threads=1).info.vocab_size == TINY.vocab_size


SETTINGS = {
    "eos of objects": {"eos_token_id": [{}]},
    "eos of none": {"eos_token_id": []},
    "a million eos": {"eos_token_id": [1] * 1_000_000},
    "pad of text": {"pad_token_id": "0"},
    "pad of truth": {"pad_token_id": True},
    "no decoder": {"decoder": 3},
    "options of a list": {"decoder": {"session_options": []}},
    "eos beyond the graph": {"eos_token_id": [TINY.vocab_size]},
}


@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_form_are_refused(tmp_path, values: dict) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    change(tmp_path, lambda model: model.update(values))
    with pytest.raises(ExportError, match="special token"):
        OnnxModel.open(tmp_path, num_threads=1)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "²", "", "1e3"])
def test_a_graph_whose_lengths_are_no_numbers_is_refused(tmp_path, length: str) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    next(entry for entry in graph.metadata_props if entry.key == "glmquant.max_length").value = length
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match="not exported by glmquant"):
        OnnxModel.open(tmp_path, num_threads=1)


def change(bundle, edit) -> None:
    path = bundle / "genai_config.json"
    settings = json.loads(path.read_text())
    edit(settings["model"])
    path.write_text(json.dumps(settings))
